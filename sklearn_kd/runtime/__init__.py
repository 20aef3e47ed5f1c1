"""Control of torch's state and of the machine: generators, modes, devices, memory, processes."""
