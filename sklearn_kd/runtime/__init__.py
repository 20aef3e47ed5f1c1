"""Control the state of torch and of the machine: generators, modes, devices, memory, processes."""
