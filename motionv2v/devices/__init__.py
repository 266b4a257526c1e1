"""What the code knows of machines: meshes, processes, memory, chips, and programs compiled for them."""
