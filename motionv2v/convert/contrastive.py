"""CLIP from its published files: find them in a folder, know them, refuse what only looks like them, and load.

    network = contrastive.load(contrastive.find(Path("weights"), "ViT-B/32"))
    clip.picture_features(network.module, network.params, clip.shorter_side(frames))

Three layouts are read: OpenAI's archives of TorchScript, whose program is not run, open_clip's files with the same
names, and transformers' model.safetensors or pytorch_model.bin. Files are known by what they hold, not by their names:
where the sha256 is that of a published file it is verified, else names and shapes decide and it is marked "unverified".
LAION's and DataComp's trainings have the names and shapes of OpenAI's and another activation (`models.features.clip`):
config.json beside transformers' file tells which; of any other file that is not verified it must be said.
"""

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from motionv2v import files, parameters
from motionv2v.convert import pickled
from motionv2v.convert.published import Published, Source
from motionv2v.convert.rules import SAME, TRANSPOSE, Rule, conv, linear, norm
from motionv2v.convert.tensors import ConvertError, Entry, Tensors, listing, load_leaves, match, read_json, some
from motionv2v.models.features import byte_pairs, clip
from motionv2v.typing import PyTree

ENDINGS = (".pt", ".safetensors", ".bin", ".pth")
VOCABULARIES = ("bpe_simple_vocab_16e6.txt.gz", "merges.txt")


def _openai(name: str, sha256: str) -> Published:
    return Published(name, sha256, f"openaipublic.azureedge.net/clip/models/{sha256}/{name}", "MIT")


def _transformers(size: str, file: str, sha256: str) -> Published:
    return Published(file, sha256, f"huggingface.co/openai/clip-vit-{size}/resolve/main/{file}", "MIT")


PUBLISHED = {
    "ViT-B/32": (
        _openai("ViT-B-32.pt", "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af"),
        _transformers(
            "base-patch32", "pytorch_model.bin", "a63082132ba4f97a80bea76823f544493bffa8082296d62d71581a4feff1576f"
        ),
    ),
    "ViT-B/16": (_openai("ViT-B-16.pt", "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f"),),
    "ViT-L/14": (
        _openai("ViT-L-14.pt", "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836"),
        _transformers(
            "large-patch14", "model.safetensors", "a2bf730a0c7debf160f7a6b50b3aaf3703e7e88ac73de7a314903141db026dcb"
        ),
        _transformers(
            "large-patch14", "pytorch_model.bin", "f1a17cdbe0f36fec524f5cafb1c261ea3bbbc13e346e0f74fc9eb0460dedd0d3"
        ),
    ),
}
"""OpenAI's weights, by network: all are the same numbers, and take `quick_gelu`."""
VOCABULARY = "github.com/openai/CLIP, clip/bpe_simple_vocab_16e6.txt.gz; licence: MIT"


class Found(NamedTuple):
    """A file that was recognised: its network, where it came from; `tensors` have transformers' names and shapes.

    `activation` is None where nothing tells it.
    """

    net: str
    source: Source
    activation: str | None
    tensors: Tensors

    def __str__(self) -> str:
        return f"{self.net}, {self.activation}, {self.source}"


class Network(NamedTuple):
    """A network to measure with: the module, its parameters, and its source."""

    module: clip.Clip
    params: PyTree
    source: Source


def load(found: Found) -> Network:
    """Read a network's parameters in float32. Raises ConvertError for a file that has changed or is not finite."""
    sizes = clip.NETS[found.net]
    leaves = load_leaves(found.tensors, rules(sizes), clip.parameter_shapes(sizes))
    return Network(clip.Clip(sizes, found.activation), parameters.unflatten(leaves), found.source)


def find(weights: Path, net: str = "ViT-B/32", activation: str | None = None) -> Found:
    """Find a network's file in a folder or in the folders in it, under whatever name.

    Args:
        weights: the folder. net: one of `clip.NETS`.
        activation: "quick_gelu" or "gelu", for a file that does not tell which it was trained with.

    Raises:
        ConvertError: a ValueError of one line: when there is no file (which, where it goes, where it is published and
            under which licence), only a look-alike, several that cannot be told apart, none that tells its activation,
            or one that tells another.
        ValueError: for another network or activation.
    """
    if net not in clip.NETS:
        raise ValueError(f"unknown CLIP network {net!r}; available: {', '.join(clip.NETS)}")
    if activation not in (None, *clip.ACTIVATIONS):
        raise ValueError(f"unknown activation {activation!r}; available: {', '.join(clip.ACTIVATIONS)}")
    found, refused = [], []
    for path in _candidates(Path(weights), ENDINGS):
        try:
            found.append(recognise(path))
        except ConvertError as error:
            refused.append(str(error))
    fitting = [file for file in found if file and file.net == net]
    # Published files of one network hold the same numbers, and copies are one.
    chosen = [file for file in fitting if file.source.verified][:1]
    chosen = chosen or list({file.source.sha256: file for file in fitting}.values())
    if len(chosen) > 1:
        names = ", ".join(str(file.source) for file in chosen)
        raise ConvertError(f"{weights} holds several files with CLIP {net}: {names}; leave one there")
    if not chosen:
        published = PUBLISHED[net][0] if net in PUBLISHED else None
        which = f"{published.name} (from {published.origin}; licence: {published.licence})" if published else "its file"
        reasons = f"; not used: {some(refused)}" if refused else ""
        raise ConvertError(
            f"CLIP {net} is not there: put {which} into {weights}, which holds {listing(Path(weights))}{reasons}"
        )
    return chosen[0]._replace(activation=_settled(chosen[0], activation))


def recognise(path: Path) -> Found | None:
    """Say what a file is to CLIP; None when it has nothing to do with it.

    Raises:
        ConvertError: in one line, for a file that cannot be read, and a CLIP of another kind or size than `clip.NETS`.
    """
    tensors = pickled.open_scripted(path) if pickled.is_scripted(path) else pickled.open_state_dict(path)
    if "visual.attnpool.positional_embedding" in tensors:
        raise ConvertError(f"{path} holds one of CLIP's ResNets; available: {', '.join(clip.NETS)}")
    tensors = _plain(tensors)
    if not {"visual_projection.weight", "text_projection.weight"} <= set(tensors):
        return None
    fitting = [net for net, sizes in clip.NETS.items() if _fits(tensors, sizes)]
    if not fitting:
        raise ConvertError(f"{path} holds {_other(tensors)}; available: {', '.join(clip.NETS)}")
    # Asked only now, for a folder of weights may hold large files that are others' business.
    digest = files.sha256(path)
    verified = any(digest == published.sha256 for published in PUBLISHED.get(fitting[0], ()))
    source = Source(path.name, digest, verified)
    return Found(fitting[0], source, "quick_gelu" if verified else _configured(path), tensors)


def find_vocabulary(weights: Path) -> byte_pairs.BytePairs:
    """Read CLIP's vocabulary from a folder or the folders in it.

    Raises ConvertError, in one line, when it is not there (where it is published) or is another one.
    """
    for path in _candidates(Path(weights), VOCABULARIES):
        try:
            return byte_pairs.load(path)
        except (OSError, EOFError, ValueError) as error:
            raise ConvertError(f"{path} cannot be read as CLIP's vocabulary: {error}") from error
    names = " or transformers' ".join(VOCABULARIES)
    raise ConvertError(f"CLIP's vocabulary is not there: put {names} into {weights} (from {VOCABULARY})")


def rules(sizes: clip.Sizes) -> list[Rule]:
    """Return how the tensors, by transformers' names, become parameters of `clip.Clip`."""
    found = [
        Rule("vision_model.embeddings.patch_embedding.weight", "vision/patch_embed/kernel", conv(2)),
        Rule("vision_model.embeddings.class_embedding", "vision/class_embed", SAME),
        Rule("visual_projection.weight", "vision/projection/kernel", TRANSPOSE),
        *norm("vision_model.pre_layrnorm", "vision/pre_norm"),
        *norm("vision_model.post_layernorm", "vision/post_norm"),
        Rule("text_model.embeddings.token_embedding.weight", "text/token_embed", SAME),
        Rule("text_projection.weight", "text/projection/kernel", TRANSPOSE),
        *norm("text_model.final_layer_norm", "text/final_norm"),
    ]
    for part, depth in (("vision", sizes.depth), ("text", sizes.text_depth)):
        place = f"{part}_model.embeddings.position_embedding.weight"
        found.append(Rule(place, f"{part}/position_embed", SAME))
        block, target = f"{part}_model.encoder.layers.{{i}}", f"{part}/blocks"
        for name in ("q", "k", "v"):
            found += linear(f"{block}.self_attn.{name}_proj", f"{target}/{name}", depth)
        found += linear(f"{block}.self_attn.out_proj", f"{target}/o", depth)
        found += linear(f"{block}.mlp.fc1", f"{target}/mlp_up", depth)
        found += linear(f"{block}.mlp.fc2", f"{target}/mlp_down", depth)
        found += norm(f"{block}.layer_norm1", f"{target}/attention_norm", depth)
        found += norm(f"{block}.layer_norm2", f"{target}/mlp_norm", depth)
    return found


_UNUSED = re.compile(r"(.*\.position_ids|logit_scale|logit_bias|input_resolution|context_length|vocab_size)$")
"""What files hold besides: numbers that can be counted, and the scale of training's logits."""
_BLOCK = r"transformer\.resblocks\.(\d+)\."
_RENAMED = (
    (rf"^visual\.{_BLOCK}", r"vision_model.encoder.layers.\1."),
    (rf"^{_BLOCK}", r"text_model.encoder.layers.\1."),
    (r"\.ln_([12])\.", r".layer_norm\1."),
    (r"\.attn\.", ".self_attn."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
    (r"^visual\.conv1\.", "vision_model.embeddings.patch_embedding."),
    (r"^visual\.class_embedding$", "vision_model.embeddings.class_embedding"),
    (r"^visual\.positional_embedding$", "vision_model.embeddings.position_embedding.weight"),
    (r"^visual\.ln_pre\.", "vision_model.pre_layrnorm."),
    (r"^visual\.ln_post\.", "vision_model.post_layernorm."),
    (r"^token_embedding\.", "text_model.embeddings.token_embedding."),
    (r"^positional_embedding$", "text_model.embeddings.position_embedding.weight"),
    (r"^ln_final\.", "text_model.final_layer_norm."),
)
"""From OpenAI's and open_clip's names to transformers', in turn."""
_PROJECTIONS = {"visual.proj": "visual_projection.weight", "text_projection": "text_projection.weight"}


def _plain(tensors: Tensors) -> Tensors:
    """Give OpenAI's tensors transformers' names and shapes, and leave out what is not used; nothing is read."""
    entries = {}
    for name, entry in ((name, tensors[name]) for name in tensors):
        if _UNUSED.match(name):
            continue
        if name in _PROJECTIONS and len(entry.shape) == 2:  # [W E] there
            entries[_PROJECTIONS[name]] = entry._replace(shape=entry.shape[::-1], strides=_strides(entry)[::-1])
            continue
        for there, here in _RENAMED:
            name = re.sub(there, here, name)
        joined = re.fullmatch(r"(.*self_attn\.)in_proj_(weight|bias)", name)
        if joined and entry.shape and entry.shape[0] % 3 == 0:
            for place, part in enumerate("qkv"):
                entries[f"{joined[1]}{part}_proj.{joined[2]}"] = _third(entry, place)
        else:
            entries[name] = entry
    return Tensors(entries, tensors.where)


def _strides(entry: Entry) -> tuple[int, ...]:
    return entry.strides or tuple(math.prod(entry.shape[axis + 1 :]) for axis in range(len(entry.shape)))


def _third(entry: Entry, place: int) -> Entry:
    """Return the first, second or third part of a tensor's rows."""
    rows = entry.shape[0] // 3
    start = entry.start + place * rows * _strides(entry)[0] * entry.dtype.itemsize
    return entry._replace(shape=(rows, *entry.shape[1:]), start=start)


def _fits(tensors: Tensors, sizes: clip.Sizes) -> bool:
    """Say whether a file's tensors are a network's."""
    try:
        match(tensors, rules(sizes), clip.parameter_shapes(sizes))
    except ConvertError:
        return False
    return True


def _other(tensors: Tensors) -> str:
    """Name a CLIP that is none of `clip.NETS`."""
    place, patch = (
        tensors[f"vision_model.embeddings.{name}.weight"].shape
        if f"vision_model.embeddings.{name}.weight" in tensors
        else ()
        for name in ("position_embedding", "patch_embedding")
    )
    if len(place) == 2 and len(patch) == 4:
        side = round(math.sqrt(max(0, place[0] - 1))) * patch[-1]
        return f"a CLIP of width {place[1]} that sees {side} pixels in patches of {patch[-1]}"
    return f"{len(tensors)} tensors of no CLIP that is known ({some(sorted(tensors))})"


def _configured(path: Path) -> str | None:
    """Return the activation that transformers' config.json beside a file names; its default where it names none."""
    if not (path.parent / "config.json").is_file():
        return None
    config = read_json(path.parent / "config.json")
    if config.get("model_type") != "clip":
        return None
    parts = [config.get(f"{part}_config") for part in ("vision", "text")]
    found = {part.get("hidden_act", "quick_gelu") if isinstance(part, dict) else "quick_gelu" for part in parts}
    if len(found) > 1 or not found <= set(clip.ACTIVATIONS):
        raise ConvertError(
            f"{path.parent / 'config.json'} names the activations {some(sorted(map(str, found)))}; expected one of "
            f"{', '.join(clip.ACTIVATIONS)}"
        )
    return found.pop()


def _settled(file: Found, said: str | None) -> str:
    """Return the activation that a file tells or that was said."""
    if file.activation is None and said is None:
        raise ConvertError(
            f"{file.source} may be OpenAI's CLIP {file.net} or another training of it, which differ in their "
            "activation: say which, as its config has it: quick_gelu (OpenAI's, and open_clip's models of that "
            "name) or gelu"
        )
    if None not in (file.activation, said) and file.activation != said:
        raise ConvertError(f"{file.source} takes the activation {file.activation}, not {said}")
    return file.activation or said


def _candidates(weights: Path, endings: tuple[str, ...]) -> Iterator[Path]:
    """List the files of a folder and of the folders in it, of two formats of one model the safer one."""
    folders = [weights, *sorted(path for path in weights.iterdir() if path.is_dir())] if weights.is_dir() else []
    for path in (path for folder in folders for path in sorted(folder.iterdir())):
        is_twin = path.name == "pytorch_model.bin" and (path.parent / "model.safetensors").is_file()
        if path.is_file() and path.name.endswith(endings) and not is_twin:
            yield path
