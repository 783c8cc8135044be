"""What is asked of the world once, before anything is decided, as frozen values.

world     the shell, the machine, the allocation, the clock
recipe    the recipe's file, read without running it

cluster_probe makes a first profile from what a cluster answers.
"""
