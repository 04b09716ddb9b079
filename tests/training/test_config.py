import pytest
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from transformers import AutoTokenizer, BertConfig, BertModel

from micse_utils.training.config import PRESETS, LowShotConfig, configure, papers_recipe
from micse_utils.training.losses import MiCSELoss
from micse_utils.training.trainer import default_preset


@pytest.fixture(scope="module")
def model_of_depth(tiny_bert, tmp_path_factory):
    """A random sentence encoder with so many layers."""

    def make(layers, pooling="cls"):
        folder = tmp_path_factory.mktemp("deep")
        sizes = {"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 8}
        BertModel(BertConfig(num_hidden_layers=layers, **sizes)).save_pretrained(folder)
        AutoTokenizer.from_pretrained(tiny_bert).save_pretrained(folder)
        return SentenceTransformer(modules=[Transformer(str(folder)), Pooling(8, pooling)])

    return make


def test_the_presets_are_the_papers_recipes(model_of_depth):
    recipe = {
        "10%": (10, 5e-4, 500), "1%": (50, 1e-4, 500), "0.1%": (500, 1e-3, 500),
        "0.01%": (2500, 1e-3, 250),
    }  # fmt: skip
    twelve_layers = model_of_depth(12)
    for split, (epochs, weight, eval_steps) in recipe.items():
        preset = PRESETS[split]
        assert (preset.epochs, preset.steps, preset.ami_weight) == (epochs, None, weight)
        assert (preset.batch_size, preset.max_length, preset.learning_rate) == (64, 32, 1e-5)
        assert (preset.temperature, preset.eval_steps) == (0.05, eval_steps)
        assert (preset.seed, preset.bf16) == (42, False)
        loss = MiCSELoss(twelve_layers, min_layer=preset.min_layer, max_layer=preset.max_layer)
        assert (loss.min_layer, loss.max_layer) == (7, 11)


@pytest.mark.parametrize(
    ("sentences", "preset", "steps"),
    [
        (64, "0.01%", 2_500), (100, "0.01%", 5_000), (1_000, "0.1%", 8_000),  # 100 are 64 and 36
        (10_000, "1%", 157 * 50), (100_000, "10%", 1_563 * 10),
    ],
)  # fmt: skip
def test_a_recipe_takes_as_many_steps_as_the_authors(sentences, preset, steps):
    assert PRESETS[preset].total_steps(sentences) == steps
    assert LowShotConfig(epochs=3, steps=7).total_steps(sentences) == 7


def test_the_packaged_encoder_has_presets_of_its_own(model_of_depth):
    names = {(4, "cls"): "packaged-raw", (6, "cls"): "packaged-cls", (6, "mean"): "packaged"}
    for (layers, pooling), name in names.items():
        model = model_of_depth(layers, pooling)
        assert default_preset(model, 1_000) == name
        MiCSELoss(model, min_layer=PRESETS[name].min_layer, max_layer=PRESETS[name].max_layer)
    assert default_preset(model_of_depth(2), 1_000) == "0.1%"


def test_a_recipe_belongs_to_the_nominal_size_of_a_split():
    sizes = {64: "0.01%", 500: "0.01%", 999: "0.1%", 5_000: "0.1%", 9_990: "1%", 100_000: "10%"}
    assert {size: papers_recipe(size) for size in sizes} == sizes


def test_settings_replace_those_of_a_preset():
    config = configure("packaged", seed=7, ami_weight=0.5)
    assert (config.seed, config.ami_weight) == (7, 0.5)
    assert config.learning_rate == PRESETS["packaged"].learning_rate
    assert configure("packaged", epochs=3).steps is None  # steps would win over epochs
    assert configure("packaged", epochs=3, steps=5).steps == 5
    assert configure(LowShotConfig(seed=3), method="simcse") == LowShotConfig("simcse", seed=3)


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"preset": "2%"}, ValueError), ({"method": "simsce"}, ValueError),
        ({"learning_rat": 1}, TypeError), ({"learning_rate": 0}, ValueError),
        ({"temperature": float("inf")}, ValueError), ({"ami_weight": float("nan")}, ValueError),
        ({"steps": 2.5}, ValueError), ({"eval_steps": True}, ValueError),
    ],
)  # fmt: skip
def test_invalid_settings_are_rejected_by_name(settings, error):
    [(name, value)] = settings.items()
    with pytest.raises(error, match=value if name == "preset" else name):
        configure(**{"preset": "packaged", **settings})
