def table(r): return []
def notes(r): return []
