"""What the launcher and its half in the job agree on.

The package travels with each run, as launcher/job does: the standard library alone (Hydra's parser inside a function),
valid on Python 3.10, and it imports nothing from the rest of the launcher.

    paths, records, validation      every path of a run directory, a type for every file in it, and the check of a value
    files, process, events          whole files and JSON lines, the identity of a process, progress of long work
    generations                     ownership of a directory by numbered files, on every file system
    values, overrides               override texts in Hydra's grammar, types, and overrides as they travel
    recipe_arguments, data_request  arguments of recipes, and what `data=` means
    conversion                      the request of a conversion of weights
    parallel_sizes, key_aliases     rules of sizes, and keys that releases call by different names
    checkpoints, manifest           which checkpoints are whole, and their sums
    disk_space                      what a file system can still take
    profiles, checks, hub           captures of profilers, findings of the doctor, Hugging Face's hub
    fabrics                         one module for each fabric
    variables, units, errors        names of environment variables, quantities for people, errors that explain
"""
