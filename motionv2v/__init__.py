"""Edit the motion in a video with a diffusion model: MotionV2V (arXiv 2511.20640) in JAX and Flax.

The map, floor by floor; a file or folder imports only what lies on floors below its own (tests/conventions_test.py):

    12  training      the loop, what is trained, runs' settings; data prepared beforehand
    11  evaluation    what a model, a tracker or a generator is worth
    10  editing       the editor, from arrays and from files; the generator of videos between two frames
        cli           what launchers share
     9  convert       published weights in and out, stored models in, exports for inference
     8  devices       meshes, processes, memory, chips, compiled programs
     7  backbone      one config's networks: autoencoder, text encoder, denoiser, schedule
        checkpoints   save, restore, released models
     6  sections      what a config may hold, section by section
     5  data          scenes, videos and MOVi as pairs; batches, latents, tokens (numpy)
     4  methods       MotionV2V and interpolation: conditions and conditioners, one file each
        edits         what can be done to tracks, and the file that says so (numpy)
        draft         an edit drawn from the clip's own pixels, without a network (numpy, OpenCV)
     3  trackers      find tracks
        sampling      time grids, solvers, guidance
        camera, rigid, render, figures, metrics    homographies, points that move together, tracks as pixels, pictures
                      for people, numbers about videos
     2  models        the networks
        diffusion, solvers, tracks, video, parameters, progress    the noise process, coefficients of samplers' steps,
                      point tracks, video files, parameters by path, progress lines
     1  typing, files, schema    axis letters, whole files or none, fields of configs
        stacks                   arrays of frames whose memory is bounded
        pickles                  arrays out of pickles, of which nothing is run

Import modules by their own names: `from motionv2v import edits, editing, trackers, video`. Importing the package alone
loads nothing, so that the input pipeline's worker processes stay free of jax.
"""

from pathlib import Path

ROOT = Path(__file__).parent
"""The folder of the package: its source, released models and examples lie in it, wherever the module that asks lies."""
