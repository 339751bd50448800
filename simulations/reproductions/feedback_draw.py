def draw(results, path):
    path.write_bytes(b"")
