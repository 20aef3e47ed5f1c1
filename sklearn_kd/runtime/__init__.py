"""The state of torch and of the machine: random generators, modes, devices, memory, processes."""
