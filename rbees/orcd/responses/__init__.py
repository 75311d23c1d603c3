"""PURE: OpenAI's responses: their requests as jobs (`requests`), what was said as items (`items`), what comes of a job as a
response and its events (`answers`, `events`, `course`). Nothing here knows of HTTP or of the disk.
"""
