"""How users arrange samples: class folders, tables, named arrays, recordings and their windows."""
