-- What OpenAI's Responses API keeps beside a job, so that a response can be asked for again and gone on from.

CREATE TABLE responses (
    job INTEGER PRIMARY KEY REFERENCES jobs (number) ON DELETE CASCADE,
    -- The input and what answers repeat of the request, as JSON; NULL once the job's content was erased.
    record BLOB
) STRICT;
