"""News from outside: prices and grid intensities. Doors: they read files that other packages ship, never the network
(live feeds come with the carbon work). The packages themselves are not imported: only their data files are read.
"""
