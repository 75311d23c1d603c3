-- A job with cancel_on_disconnect was watched at some time, so that after a restart somebody is expected back.

ALTER TABLE jobs ADD COLUMN watched INTEGER NOT NULL DEFAULT 0;
