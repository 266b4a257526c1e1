"""Edit the motion in a video with a diffusion model: MotionV2V (arXiv 2511.20640) in JAX and Flax.

The map, from the ground up (a module imports only from lines above its own):

    typing                                   axis letters, array annotations
    tracks, camera, video                    point tracks, homographies, video files
    selection, groups, edits, edit_fields, edit_json
                                             what can be done to tracks, and the file that says so
    trackers, metrics, figures               find tracks, measure, draw for people
    render, diffusion, models, flops         tracks as pixels, the noise process, the networks, their operations
    methods, data, optim, sharding, checkpoints, sampling, tokenizer
    convert                                  published weights in and out
    model, editing, evaluate, edit_run       one config's modules, the editor, its scores, an edit from files to files
    interpolate, tapvid                      generate between two frames, score trackers
    datasets, tasks, train, export           a config's batches, what is trained, the loop, models for inference
    prepare, prepare_videos                  training data: latents, and pairs from folders of videos

Import the submodules by name: `from motionv2v import edits, editing, trackers, video`. Importing the package alone
loads nothing, so that the input pipeline's worker processes stay free of jax.
"""

from pathlib import Path

ROOT = Path(__file__).parent
"""The folder of the package: its source, released models and examples lie in it, wherever the module that asks lies."""
