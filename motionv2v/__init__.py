"""Edit the motion in a video with a diffusion model: MotionV2V (arXiv 2511.20640) in JAX and Flax."""
