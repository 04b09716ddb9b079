import pytest
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from transformers import AutoTokenizer, BertConfig, BertModel

from micse_utils.objective import MiCSELoss
from micse_utils.recipes import PRESETS, LowShotConfig, configure, default_preset


@pytest.fixture(scope="module")
def model_of_depth(tiny_bert, tmp_path_factory):
    """A random sentence encoder with so many layers."""

    def make(layers):
        folder = tmp_path_factory.mktemp("deep")
        sizes = {"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 8}
        BertModel(BertConfig(num_hidden_layers=layers, **sizes)).save_pretrained(folder)
        AutoTokenizer.from_pretrained(tiny_bert).save_pretrained(folder)
        return SentenceTransformer(modules=[Transformer(str(folder)), Pooling(8, "cls")])

    return make


def test_the_presets_are_the_papers_recipes(model_of_depth):
    recipe = {"10%": (10, 5e-4), "1%": (50, 1e-4), "0.1%": (500, 1e-3), "0.01%": (2500, 1e-3)}
    twelve_layers = model_of_depth(12)
    for split, (epochs, weight) in recipe.items():
        preset = PRESETS[split]
        assert (preset.epochs, preset.steps, preset.ami_weight) == (epochs, None, weight)
        assert (preset.batch_size, preset.max_length, preset.learning_rate) == (64, 32, 1e-5)
        assert preset.temperature == 0.05
        loss = MiCSELoss(twelve_layers, min_layer=preset.min_layer, max_layer=preset.max_layer)
        assert (loss.min_layer, loss.max_layer) == (7, 11)


def test_the_default_preset_follows_depth_and_number_of_sentences(model_of_depth):
    names = {count: default_preset(model_of_depth(12), count) for count in (64, 999, 10_000, 10**6)}
    assert names == {64: "0.01%", 999: "0.01%", 10_000: "1%", 10**6: "10%"}
    for layers, name in {4: "packaged-raw", 6: "packaged"}.items():
        model = model_of_depth(layers)
        assert default_preset(model, 1_000) == name
        MiCSELoss(model, min_layer=PRESETS[name].min_layer, max_layer=PRESETS[name].max_layer)


def test_settings_replace_those_of_a_preset():
    config = configure("packaged", seed=7, ami_weight=0.5)
    assert (config.seed, config.ami_weight) == (7, 0.5)
    assert config.learning_rate == PRESETS["packaged"].learning_rate
    assert configure("packaged", epochs=3).steps is None  # steps would win over epochs
    assert configure("packaged", epochs=3, steps=5).steps == 5
    assert configure(LowShotConfig(seed=3), method="simcse") == LowShotConfig("simcse", seed=3)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"preset": "2%"}, ValueError, r'preset="2%" is none of 10%, 1%, 0.1%, 0.01%, packaged'),
        ({"method": "simsce"}, ValueError, r'method="simsce" is none of micse, simcse'),
        ({"learning_rat": 1}, TypeError, r"learning_rat is no setting; there are method, ami_w"),
        ({"batch_size": 1}, ValueError, r"batch_size=1 leaves InfoNCE nothing"),
        ({"steps": 0}, ValueError, r"steps=0 is not a positive whole number"),
        ({"steps": 2.5}, ValueError, r"steps=2.5 is not a positive whole number"),
        ({"evaluations": True}, ValueError, r"evaluations=True is not a positive whole number"),
        ({"learning_rate": float("nan")}, ValueError, r"learning_rate=nan is not between 0 and 1"),
        ({"learning_rate": "fast"}, ValueError, r'learning_rate="fast" is not a number'),
        ({"ami_weight": None}, ValueError, r"ami_weight=None is not a number"),
        ({"seed": -1}, ValueError, r"seed=-1 is not a whole number from 0"),
    ],
)
def test_what_cannot_be_meant_is_refused(settings, error, message):
    with pytest.raises(error, match=message):
        configure(**{"preset": "packaged", **settings})
