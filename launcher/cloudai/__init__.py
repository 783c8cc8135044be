"""CloudAI's System, Test and Scenario files for Megatron Bridge, run by this launcher.

models, cmd_args    the schemas, as strict as CloudAI's
toml_lines          where a key stands in a TOML file
load                from the files of a command line to one checked `LoadedFiles`
constraints         which points of a sweep cannot run
native, flags       cmd_args as a recipe with overrides, and as flags of Bridge's setup_experiment.py
sources             git_repos: cloned once per commit
environment         variables of the runs; tokens and keys by name, never by value
cases               from a scenario to the runs that it asks for
gates               pre_test and post_test as programs that a job runs before and after its training
run, results        submitting the runs, and what is written about them
single              all runs in one job (--single-sbatch)
convert             the launcher's own job and profile files of a scenario
"""
