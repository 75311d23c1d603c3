"""The engine: sequences in, decode calls to a backend, whole tokens out. It knows no HTTP and no asyncio."""
