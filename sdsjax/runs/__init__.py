"""A run on disk and as a process.

Its directory (`run_directory`), checkpoints that never load silently wrong
(`checkpoints`), one process at a time (`lock`), what it says (`logs`), what made it
(`provenance`), signals that ask it to stop (`signals`), what its exit status means
(`exit_status`), the cache of compiled programs (`compile_cache`), what is compiled
while steps are taken (`ahead`), a disk that takes no more (`disk_errors`), a library
that is not imported on another's way (`without`). Imports the ground; stands below
training.
"""
