-- How much a job asks for, as far as scheduling goes, and why its attempts went where they did.

-- Of its prompt as it is written down to be named, see protocol/prefix_chain.py.
ALTER TABLE jobs ADD COLUMN prompt_bytes INTEGER NOT NULL DEFAULT 0;

-- The names of the prompt's beginnings, 8 bytes each, the shortest first. Made from content, so erased with it.
ALTER TABLE jobs ADD COLUMN prefixes BLOB NOT NULL DEFAULT x'';

-- When the job must have ended, if its client said so.
ALTER TABLE jobs ADD COLUMN deadline_at_ms INTEGER;

-- Why the attempt's worker was chosen, in a few words.
ALTER TABLE attempts ADD COLUMN why TEXT;
