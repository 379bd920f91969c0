"""Building blocks without domain knowledge.

- files: `files` (atomic writes), `held_folders`, `network_disks`; the folders `scratch` and
  `user_cache`
- files from outside: `untrusted_files`, `untrusted_arrays`, `untrusted_archives`
- object storage: `object_storage`
- processes: `limited_process` (with limits), `subprocesses`, `interrupts` (Ctrl-C)
- memory: `memory` of the machine, `large_arrays` in mapped files; `machine` describes it
- time: `call_times`
- what stages say: `events`, `progress`, `decisions`; `units` of what is shown
- `plugins`, `field_types` of JSON, `version`
"""
