"""CLIP against transformers and torch: both networks, all layouts of files, preparation of pictures, the tokenizer."""

import html

import numpy as np
import pytest
from safetensors.numpy import save_file

from motionv2v.convert import contrastive
from motionv2v.convert.tensors import Entry, Tensors, match
from motionv2v.models.features import byte_pairs, clip

torch = pytest.importorskip("torch", reason="needs torch: pip install -e .[parity]")
transformers = pytest.importorskip("transformers", reason="needs transformers: pip install -e .[parity]")

from torch import nn  # noqa: E402

TINY = clip.Sizes(patch=8, width=128, depth=2, text_width=64, text_depth=3, features=64, side=32)
"""The projection of texts is square, as in the B networks, so that one the wrong way round would load."""
TOLERANCE = 1e-4


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(clip.NETS, "tiny", TINY)


def theirs_of(sizes, activation="quick_gelu"):
    parts = [(sizes.width, sizes.depth), (sizes.text_width, sizes.text_depth)]
    vision, text = (
        {
            "hidden_size": width,
            "intermediate_size": 4 * width,
            "num_hidden_layers": depth,
            "num_attention_heads": width // 64,
            "hidden_act": activation,
        }
        for width, depth in parts
    )
    vision |= {"image_size": sizes.side, "patch_size": sizes.patch}
    text |= {"eos_token_id": 49407, "bos_token_id": 49406, "pad_token_id": 49407}
    config = transformers.CLIPConfig(vision_config=vision, text_config=text, projection_dim=sizes.features)
    return transformers.CLIPModel(config).eval()


def random_model(activation="quick_gelu"):
    """A model of transformers in which nothing is zero or one, and features are far from one another."""
    torch.manual_seed(0)
    model = theirs_of(TINY, activation)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def given():
    """Pictures of the network's size; texts of several lengths, with ends in several places."""
    rng = np.random.default_rng(0)
    tokens = np.full((3, byte_pairs.LENGTH), byte_pairs.VOCABULARY - 1, np.int32)
    for row, length in zip(tokens, (3, 20, 76), strict=True):
        row[0], row[1:length] = byte_pairs.VOCABULARY - 2, rng.integers(0, 49406, length - 1)
    return rng.integers(0, 256, (3, 32, 32, 3), np.uint8), tokens


def normalised(pictures):
    x = (torch.tensor(pictures).float() / 255 - torch.tensor(clip.MEAN)) / torch.tensor(clip.STD)
    return x.permute(0, 3, 1, 2)


def features_of(model, pictures, tokens):
    with torch.no_grad():
        seen = model.vision_model(pixel_values=normalised(pictures)).pooler_output
        read = model.text_model(input_ids=torch.tensor(tokens).long()).pooler_output
        return model.visual_projection(seen).numpy(), model.text_projection(read).numpy()


def ours(folder, activation=None):
    network = contrastive.load(contrastive.find(folder, "tiny", activation))
    pictures, tokens = given()
    return (
        clip.picture_features(network.module, network.params, pictures, chunk=2),
        clip.text_features(network.module, network.params, tokens),
    )


def assert_close(found, expected):
    for one, other in zip(found, expected, strict=True):
        assert np.linalg.norm(one - other) / np.linalg.norm(other) < TOLERANCE
        assert np.linalg.norm(other - other.mean(0)) / np.linalg.norm(other) > 0.1, "they are told apart"


@pytest.mark.parametrize("activation", clip.ACTIVATIONS)
@pytest.mark.parametrize("is_safe", [True, False])
def test_what_transformers_saves_gives_its_features(tmp_path, activation, is_safe):
    """The activation is the one of config.json; weights of either kind, and both kinds in one folder."""
    model = random_model(activation)
    model.save_pretrained(tmp_path / "clip")
    if not is_safe:
        (tmp_path / "clip" / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "clip" / "pytorch_model.bin")
    found = contrastive.find(tmp_path, "tiny")
    assert (found.activation, found.source.verified) == (activation, False)
    assert_close(ours(tmp_path), features_of(model, *given()))


class OpenAi(nn.Module):
    """CLIP with the names and the layers of OpenAI's own: attention is torch's, projections are x @ matrix."""

    def __init__(self, sizes):
        super().__init__()
        self.visual = Seeing(sizes)
        self.transformer = Blocks(sizes.text_width, sizes.text_depth)
        self.token_embedding = nn.Embedding(sizes.vocabulary, sizes.text_width)
        self.positional_embedding = nn.Parameter(torch.randn(77, sizes.text_width))
        self.ln_final = nn.LayerNorm(sizes.text_width)
        self.text_projection = nn.Parameter(torch.randn(sizes.text_width, sizes.features))
        self.logit_scale = nn.Parameter(torch.ones([]))
        self.register_buffer("context_length", torch.tensor(77))

    def forward(self, pictures, tokens):
        mask = torch.full((77, 77), float("-inf")).triu(1)
        x = self.ln_final(self.transformer(self.token_embedding(tokens) + self.positional_embedding, mask))
        return self.visual(pictures), x[torch.arange(len(x)), tokens.argmax(-1)] @ self.text_projection


class Seeing(nn.Module):
    def __init__(self, sizes):
        super().__init__()
        self.conv1 = nn.Conv2d(3, sizes.width, sizes.patch, sizes.patch, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(sizes.width))
        self.positional_embedding = nn.Parameter(torch.randn(sizes.tokens, sizes.width))
        self.ln_pre, self.ln_post = nn.LayerNorm(sizes.width), nn.LayerNorm(sizes.width)
        self.transformer = Blocks(sizes.width, sizes.depth)
        self.proj = nn.Parameter(torch.randn(sizes.width, sizes.features))

    def forward(self, pictures):
        x = self.conv1(pictures).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_embedding.expand(len(x), 1, -1), x], 1) + self.positional_embedding
        zero = torch.zeros(x.shape[1], x.shape[1])
        return self.ln_post(self.transformer(self.ln_pre(x), zero)[:, 0]) @ self.proj


class Blocks(nn.Module):
    def __init__(self, width, depth):
        super().__init__()
        self.resblocks = nn.ModuleList([OneBlock(width) for _ in range(depth)])

    def forward(self, x, mask):
        for block in self.resblocks:
            x = block(x, mask)
        return x


class OneBlock(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.attn = nn.MultiheadAttention(width, width // 64, batch_first=True)
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(width, 4 * width), "c_proj": nn.Linear(4 * width, width)})

    def forward(self, x, mask):
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, attn_mask=mask)[0]
        y = self.mlp["c_fc"](self.ln_2(x))
        return x + self.mlp["c_proj"](y * torch.sigmoid(1.702 * y))


@pytest.mark.parametrize("layout", ["archive", "state dict", "safetensors"])
def test_openais_layout_gives_its_features(tmp_path, layout):
    """As an archive of TorchScript in half precision, and as open_clip saves it: same names, no program."""
    torch.manual_seed(0)
    model = OpenAi(TINY).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            # Half precision keeps these exactly; convolutions may lie channels last.
            parameter.copy_((parameter + 0.1 * torch.randn_like(parameter)).half())
    pictures, tokens = given()
    with torch.no_grad():
        expected = [x.numpy() for x in model(normalised(pictures), torch.tensor(tokens).long())]
    halves = model.half().to(memory_format=torch.channels_last)
    if layout == "archive":
        torch.jit.script(halves).save(str(tmp_path / "x.pt"))
    elif layout == "state dict":
        torch.save(halves.state_dict(), tmp_path / "x.pt")
    else:
        arrays = {name: np.ascontiguousarray(x.numpy()) for name, x in halves.state_dict().items()}
        save_file(arrays, tmp_path / "x.safetensors")
    with pytest.raises(contrastive.ConvertError, match="say which, as its config has it: quick_gelu"):
        contrastive.find(tmp_path, "tiny")
    assert_close(ours(tmp_path, "quick_gelu"), expected)
    wrong = ours(tmp_path, "gelu")
    assert all(np.linalg.norm(a - b) / np.linalg.norm(b) > 1e-3 for a, b in zip(wrong, expected, strict=True))


@pytest.mark.parametrize("net", ["ViT-B/32", "ViT-B/16", "ViT-L/14"])
def test_networks_of_the_real_sizes_are_transformers(tmp_path, net):
    """Names and shapes; no weights are made."""
    sizes = clip.NETS[net]
    with torch.device("meta"):
        state = theirs_of(sizes).state_dict()
    entries = {
        name: Entry(tmp_path, 0, tuple(x.shape), np.dtype(np.float32))
        for name, x in state.items()
        if name != "logit_scale" and not name.endswith("position_ids")
    }
    steps = match(Tensors(entries, "transformers"), contrastive.rules(sizes), clip.parameter_shapes(sizes))
    assert len(steps) == len(entries)
    assert sum(x.numel() for x in state.values() if x.dtype == torch.float32) == {
        "ViT-B/32": 151_277_313,
        "ViT-B/16": 149_620_737,
        "ViT-L/14": 427_616_513,
    }.get(net)


@pytest.mark.parametrize("size", [(40, 90), (300, 233), (225, 231)])
def test_pictures_of_vbench_are_torchs(size):
    frames = np.random.default_rng(0).integers(0, 256, (2, *size, 3), np.uint8)
    short, long = sorted(size)
    resized = tuple(224 if side == short else int(224 * long / short) for side in size)
    x = torch.tensor(frames).permute(0, 3, 1, 2).float()
    x = nn.functional.interpolate(x, resized, mode="bicubic", align_corners=False, antialias=False)
    x = x.clamp(0, 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    top, left = (round((side - 224) / 2) for side in resized)
    found = clip.vbench(frames).astype(int)
    difference = np.abs(found - x[:, top : top + 224, left : left + 224])
    assert found.shape == (2, 224, 224, 3) and difference.max() <= 1 and (difference > 0).mean() < 1e-3


@pytest.mark.parametrize("size", [(40, 90), (480, 720), (300, 226)])
def test_pictures_are_transformers_pictures(size):
    """Its processor with Pillow; sides whose difference to 224 is even, for it cuts halves off otherwise."""
    frames = np.random.default_rng(0).integers(0, 256, (2, *size, 3), np.uint8)
    try:
        from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
    except ModuleNotFoundError:
        pytest.skip("needs the processor that uses Pillow: pip install 'transformers>=5'")
    made = CLIPImageProcessorPil()(list(frames), return_tensors="np")["pixel_values"]
    expected = normalised(clip.shorter_side(frames)).numpy()
    assert np.abs(np.asarray(made) - expected).max() < 1e-5


TEXTS = (
    "a dog running",
    "  A   Dog, running! ",
    "",
    "it's the dog's; they'll say we've won, I'm sure you'd re-run 's",
    "ÀÉÎÕÜ ß ﬁ Ǆ İstanbul straße naïve cafe\u0301 Ångström",
    "日本語のテキスト、漢字とカタカナ 한국어 العربية हिन्दी ไทย",
    "emoji \U0001f600\U0001f469\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466\U0001f3f3\ufe0f\u200d"
    "\U0001f308 \u2764\ufe0f \U0001f44d\U0001f3fd",
    "\uff11\uff12\uff13 \u00bd \u2167 \u00b2 2026-11-30 3.14159 1,000,000 x2y3",
    "under_score snake_case CamelCase __init__ ... !!! ?!?! -- \u2014 \u201ccurly\u201d \u2018quotes\u2019",
    "tabs\tand\nlines\r\nand\u00a0no-break\u3000wide spaces",
    "supercalifragilisticexpialidocious pneumonoultramicroscopicsilicovolcanoconiosis",
    "<|startoftext|> said <|endoftext|> and went on",
    "\u0000 control \u200b zero \ufeff width \u00ad soft",
    "\U0001d573\U0001d58a\U0001d591\U0001d591\U0001d594 \U0001d4b2\U0001d45c\U0001d4c7\U0001d4c1"
    "\U0001d4b9 \U0001f130\U0001f131\U0001f132 \u2460\u2461\u2462 \u337f",
    "a very long prompt " * 60,
    "😀" * 200,
    "'S 'T 'LL don'T WE'RE",
)


@pytest.fixture(scope="module")
def vocabulary(weights):
    return contrastive.find_vocabulary(weights)


@pytest.fixture(scope="module")
def their_tokenizer(weights, tmp_path_factory):
    folder = tmp_path_factory.mktemp("vocabulary")
    text = byte_pairs.load(weights / contrastive.VOCABULARIES[0])
    merges = [" ".join(pair) for pair in text._ranks]
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
    assert contrastive.find_vocabulary(folder)._ids == text._ids
    return transformers.CLIPTokenizer(vocab=text._ids, merges=[tuple(line.split()) for line in merges])


@pytest.mark.parametrize("text", TEXTS)
def test_tokens_are_transformers_tokens(vocabulary, their_tokenizer, text):
    expected = their_tokenizer([text], max_length=77, padding="max_length", truncation=True)["input_ids"]
    np.testing.assert_array_equal(vocabulary([text]), expected)


def test_entities_are_undone_twice_as_in_openais_code(vocabulary, their_tokenizer):
    text = "cats &amp; dogs &lt;3 &amp;amp; caf&eacute; &#128512; &amp;quot;x&amp;quot;"
    plain = html.unescape(html.unescape(text))
    assert plain == 'cats & dogs <3 & café 😀 "x"'
    expected = their_tokenizer([plain], max_length=77, padding="max_length", truncation=True)["input_ids"]
    np.testing.assert_array_equal(vocabulary([text]), expected)
