"""Files that clients upload, and batches of requests in them, as clients of OpenAI's API know both.

`objects` (PURE) is what clients send and get; `lines` (PURE) reads a line of an input file and writes one of an output file;
`endpoints` (PURE) has, for each route whose requests a line may hold, how that becomes jobs and an answer, by the same code as the
route's own; `pace` (PURE) says how many lines may wait. `files` keeps files on the disk, `reading` takes an input file apart,
`record` makes what came of lines durable, `progress` carries one batch to its end, and `batches` has all of them.

A line is a job under a key of its own, so that orcd, killed at any moment, goes on where it was: a line that has been accepted gets
the same job again, and one that stands in a file is not run again.
"""
