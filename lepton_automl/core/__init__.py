"""Building blocks without domain knowledge: files, plug-ins, child processes, events, units."""
