"""Parts of a data set: drawn or cut in time, with groups and near duplicates kept together.

Start at `assign` (which part each sample gets) and `groups` (which samples stay together).

- parts: `split` draws them or cuts them in time; `times` of samples, `window_times` of windows
- groups: `name_groups` by file names, `near_duplicates` by thumbnails (with `close_pairs`)
"""
