-- What a job makes: text, embeddings or an order of documents. It outlives the request, which says it too.

ALTER TABLE jobs ADD COLUMN kind TEXT NOT NULL DEFAULT 'generate' CHECK (kind IN ('generate', 'embed', 'rerank'));
