"""Bytes in, values out, and back: a reader and its writer share a file. Nothing here opens a file or a store."""
