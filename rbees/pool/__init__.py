"""The local tool of a pool host: looks at and acts on what the host's own pool daemon keeps."""
