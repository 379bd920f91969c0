"""How users arrange samples: class folders, tables, named arrays, recordings and their windows.

- pictures and sound in folders: `class_folders`, `folder_kinds`, `part_names`, `audio_recordings`
- tables: `table_files` reads one, `tables` says what its columns hold, `one_hot` labels;
  `audio_tables` cuts recordings of sound that rows name
- sensor values: `recording_folders`, `series_tables`, `ucr_series`; `windows` cuts recordings
- arrays: `named_arrays`; `array_keys` says which of them holds what
"""
