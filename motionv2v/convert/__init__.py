"""CogVideoX weights in and out: folders of diffusers and transformers to our modules and parameters, and back.

    module, params = convert.from_diffusers("CogVideoX-5b/transformer")     also .../vae, .../text_encoder
    convert.to_diffusers(module, params, "out/transformer")                 loads with from_pretrained
    pipeline = convert.pipeline_from_diffusers("CogVideoX-5b")              networks, tokenizer, scheduler
    convert.pipeline_to_diffusers(pipeline, "out")
    convert.stream.convert("CogVideoX-5b", "cogvideox_5b")                 disk to disk, what launch/convert.py does

`rules` says how one layout becomes the other; `autoencoder`, `text_encoder`, `transformer` and `scheduler` hold what is
peculiar to each; `tensors` reads, `writing` writes; `networks` and `pipeline` put it together. `lora` merges low-rank
updates into a transformer or keeps them beside it. `perceptual` loads the networks of metrics, from files of torch as
well (`pickled`).

What a method's own code adds to CogVideoX, its control branch and conditioner, stands in the method's file as
`models.layouts.Layout`: MotionV2V's and Diffusion-as-Shader's in `methods/motionv2v.py`. What carries nothing in such a
checkpoint is left out with a notice. Files of a variant (`*.fp16.safetensors`) are read where there are no others.
"""

from motionv2v.convert import stream
from motionv2v.convert.networks import from_diffusers, to_diffusers
from motionv2v.convert.pipeline import Pipeline, pipeline_from_diffusers, pipeline_to_diffusers
from motionv2v.convert.tensors import ConvertError

__all__ = [
    "ConvertError",
    "Pipeline",
    "from_diffusers",
    "pipeline_from_diffusers",
    "pipeline_to_diffusers",
    "stream",
    "to_diffusers",
]
