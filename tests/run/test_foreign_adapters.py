"""Adapters of PEFT's from elsewhere, whole or in part: attached as PEFT trained them, or refused by name."""

import copy
import json

import peft
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import MixtralConfig, MixtralForCausalLM, Qwen2Config, Qwen2ForCausalLM

from harness.run import adapters_asked, foreign
from harness.run.swapped import misfit

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft")  # its advice on tied weights and partial files
SIZES = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2}
IDS = torch.arange(10)[None]
PROJECTIONS = ["q_proj", "v_proj"]


@pytest.fixture(scope="module")
def base():
    torch.manual_seed(0)
    config = Qwen2Config(**SIZES, num_hidden_layers=2, num_key_value_heads=2, tie_word_embeddings=True)
    return Qwen2ForCausalLM(config).eval()


@pytest.fixture(scope="module")
def experts():
    torch.manual_seed(0)
    config = MixtralConfig(**SIZES, num_hidden_layers=1, num_key_value_heads=2, num_local_experts=4)
    return MixtralForCausalLM(config).eval()


def made(model, folder, **options):
    """Save a LoRA adapter, and return its logits and the number of its trained parameters."""
    return saved(model, LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=4, **options), folder)


def saved(model, config, folder):
    """Save an adapter with values of its own, and return its logits and the number of its trained parameters."""
    adapted = get_peft_model(copy.deepcopy(model), config)
    trained = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in trained:
            parameter.add_(0.05 * torch.randn_like(parameter))
    adapted.save_pretrained(folder)
    return adapted.eval()(IDS).logits, sum(parameter.numel() for parameter in trained)


def restored(model, folder):
    """Read an adapter, look whether it fits, and return its logits on the base."""
    adapter = foreign.read(folder, "mine")
    assert misfit(adapter, model) == ""
    return foreign.method_of(adapter).restore(copy.deepcopy(model), folder).eval()(IDS).logits


@pytest.mark.parametrize(
    "options",
    [
        {"use_rslora": True, "rank_pattern": {"q_proj": 8}, "alpha_pattern": {"q_proj": 32}},
        {"use_dora": True},
        {"modules_to_save": ["lm_head"]},
        {"trainable_token_indices": [1, 2]},
        {"target_modules": [*PROJECTIONS, "embed_tokens"]},
        {"bias": "lora_only"},
        {"lora_bias": True},
        {"init_lora_weights": "pissa"},
    ],
    ids=lambda options: next(iter(options)),
)
def test_an_adapter_answers_as_where_it_was_trained(options, base, tmp_path):
    logits, number = made(base, tmp_path, **{"target_modules": PROJECTIONS, **options})
    assert torch.equal(restored(base, tmp_path), logits)
    assert foreign.read(tmp_path, "mine").parameters == number, "embeddings that PEFT saves beside are not trained"


def test_an_adapter_of_experts_in_one_parameter_is_one(experts, tmp_path):
    """PEFT holds the A of all experts in one matrix, below a layer that the base does not have."""
    logits, _ = made(experts, tmp_path, target_parameters=["experts.gate_up_proj", "experts.down_proj"])
    assert torch.equal(restored(experts, tmp_path), logits)


def experts_apart(folder, shapes):
    """Save LoRA as PEFT did where each expert was a module, and return the change of each of its matrices."""
    torch.manual_seed(1)
    tensors, changes = {}, {}
    for place, (inputs, outputs) in shapes.items():
        a, b = 0.1 * torch.randn(4, inputs), 0.1 * torch.randn(outputs, 4)
        tensors |= {f"base_model.model.{place}.lora_A.weight": a, f"base_model.model.{place}.lora_B.weight": b}
        changes[place] = b @ a
    folder.mkdir()
    save_file(tensors, folder / foreign.WEIGHTS)
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 4}
    names = sorted({place.rpartition(".")[2] for place in shapes})
    (folder / foreign.CONFIG).write_text(json.dumps(config | {"target_modules": names}))
    return changes


@pytest.mark.filterwarnings("ignore::RuntimeWarning:peft")  # on its own patterns of ranks
def test_an_adapter_of_experts_as_modules_is_attached_as_peft_does(experts, tmp_path):
    """Such are all adapters of experts from before transformers 5; they were said to be of another base."""
    place = "model.layers.0.block_sparse_moe.experts"
    shapes = {
        f"{place}.{number}.{name}": sides
        for number in range(4)
        for name, sides in {"w1": (32, 48), "w2": (48, 32), "w3": (32, 48)}.items()
    }
    changes = experts_apart(tmp_path / "all", shapes)
    by_hand = copy.deepcopy(experts)
    fused = by_hand.model.layers[0].mlp.experts
    with torch.no_grad():
        for number in range(4):
            first, down, third = (changes[f"{place}.{number}.{name}"] for name in ("w1", "w2", "w3"))
            fused.gate_up_proj[number] += torch.cat([first, third])
            fused.down_proj[number] += down
    torch.testing.assert_close(restored(experts, tmp_path / "all"), by_hand(IDS).logits)
    experts_apart(tmp_path / "other", {"model.layers.9.block_sparse_moe.experts.0.w1": (32, 48)})
    assert "the base has no" in misfit(foreign.read(tmp_path / "other", "mine"), experts)


WHOLE = {
    "the head and the embeddings": {"modules_to_save": ["lm_head", "embed_tokens"]},
    "the head": {"modules_to_save": ["lm_head"]},
    "embeddings that are adapted": {"target_modules": [*PROJECTIONS, "embed_tokens"]},
    "embeddings that are saved beside": {},
}


@pytest.mark.parametrize("kind", WHOLE)
def test_an_adapter_of_a_vocabulary_with_more_tokens_is_of_another_base(kind, base, tmp_path):
    """The tokens that a trainer adds: attaching ended in an error, once every task had been loaded."""
    larger = copy.deepcopy(base)
    larger.resize_token_embeddings(70, mean_resizing=False)
    options = {"target_modules": PROJECTIONS, **WHOLE[kind]}
    adapted = get_peft_model(copy.deepcopy(larger), LoraConfig(task_type="CAUSAL_LM", r=4, **options))
    adapted.save_pretrained(tmp_path, save_embedding_layers=kind.startswith("embeddings"))
    adapter = foreign.read(tmp_path, "mine")
    assert misfit(adapter, larger) == ""
    assert misfit(adapter, base).endswith(" has shape 70x32, and that of the base 64x32")


def _without(part):
    def change(tensors, config):
        for name in [name for name in tensors if part in name]:
            del tensors[name]

    return change


PARTIAL = {
    "a layer is lacking": (_without("layers.1"), "lacks tensors that .*layers.1"),
    "every B is lacking": (_without("lora_B"), "lacks tensors that .*lora_B"),
    "the head is lacking": (_without("lm_head"), "lacks .*lm_head.weight, which"),
    "other layers": (lambda tensors, config: config.update(target_modules=["q_proj"]), "of other layers .*v_proj"),
}


@pytest.mark.parametrize("kind", PARTIAL)
def test_an_adapter_of_which_a_part_would_be_left_out_is_refused(kind, base, tmp_path):
    change, expected = PARTIAL[kind]
    made(base, tmp_path, target_modules=PROJECTIONS, modules_to_save=["lm_head"])
    tensors, config = load_file(tmp_path / foreign.WEIGHTS), json.loads((tmp_path / foreign.CONFIG).read_text())
    change(tensors, config)
    save_file(tensors, tmp_path / foreign.WEIGHTS)
    (tmp_path / foreign.CONFIG).write_text(json.dumps(config))
    with pytest.raises(ValueError, match=expected):
        restored(base, tmp_path)


@pytest.mark.parametrize("init", ["corda", "lora_ga"])
def test_an_adapter_whose_base_is_gone_is_refused(init, base, tmp_path):
    """PEFT attaches LoRA-GA's to the untouched base without a word, and ends at CorDA's."""
    made(base, tmp_path, target_modules=PROJECTIONS)
    config = json.loads((tmp_path / foreign.CONFIG).read_text())
    (tmp_path / foreign.CONFIG).write_text(json.dumps(config | {"init_lora_weights": init}))
    with pytest.raises(ValueError, match=f"mine: init_lora_weights={init} changed its base by rows that are not in"):
        foreign.read(tmp_path, "mine")


def test_an_adapter_that_repeats_layers_of_its_base_is_refused_for_that(base, tmp_path):
    """PEFT would make another model of the base that several adapters share."""
    made(base, tmp_path, target_modules=PROJECTIONS)
    config = json.loads((tmp_path / foreign.CONFIG).read_text())
    (tmp_path / foreign.CONFIG).write_text(json.dumps(config | {"layer_replication": [[0, 2], [1, 2]]}))
    with pytest.raises(ValueError, match="mine: layer_replication makes another model of its base"):
        foreign.read(tmp_path, "mine")


def test_an_adapter_without_a_seed_is_a_run_of_seed_0(base, tmp_path):
    """Both would be stored in one folder, the second in the place of the first."""
    places = [tmp_path / name for name in ("lora", "lora-seed0", "lora-seed1")]
    for place in places:
        made(base, place, target_modules=PROJECTIONS)
    adapters = adapters_asked.named([foreign.read(place, place.name) for place in places])
    with pytest.raises(ValueError, match="lora and lora-seed0 are both lora with seed 0: give one a name"):
        adapters_asked.check_names(adapters)
    adapters_asked.check_names([adapters[0], adapters[2]])


KINDS = {
    "OFT": ("OFTConfig", {"oft_block_size": 8}),
    "BOFT": ("BOFTConfig", {"boft_block_size": 8}),
    "LOHA": ("LoHaConfig", {"r": 4}),
    "LOKR": ("LoKrConfig", {"r": 4}),
    "HRA": ("HRAConfig", {"r": 4}),
    "VERA": ("VeraConfig", {"r": 8}),
    "PVERA": ("PveraConfig", {"r": 64}),
    "RANDLORA": ("RandLoraConfig", {"r": 8}),
    "SHIRA": ("ShiraConfig", {"r": 2}),
    "IA3": ("IA3Config", {"feedforward_modules": []}),
    "LN_TUNING": ("LNTuningConfig", {"target_modules": ["input_layernorm"]}),
    "PREFIX_TUNING": ("PrefixTuningConfig", {"num_virtual_tokens": 4}),
    "PROMPT_TUNING": ("PromptTuningConfig", {"num_virtual_tokens": 4}),
    "LORA": ("LoraConfig", {"target_modules": ["embed_tokens"], "r": 4}),  # of the embeddings alone
}


def of_kind(kind, base, folder, **more):
    """Save an adapter of a kind, and return what `saved` does."""
    name, options = KINDS[kind]
    targets = {} if "num_virtual_tokens" in options else {"target_modules": PROJECTIONS}
    config = getattr(peft, name)(**{"task_type": "CAUSAL_LM", **targets, **options, **more})
    return saved(base, config, folder)


@pytest.mark.filterwarnings("ignore")  # each kind has warnings of its own
@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_of_every_kind_is_what_it_says_it_is_and_counted(kind, base, tmp_path):
    """Projections that are drawn at random and places of weights lie beside what was trained."""
    _, trained = of_kind(kind, base, tmp_path)
    adapter = foreign.read(tmp_path, "mine")
    assert adapter.kind == kind
    assert foreign.method_of(adapter).merges == ("num_virtual_tokens" not in KINDS[kind][1])
    assert adapter.parameters == trained
    assert misfit(adapter, base) == ""


IN_LAYERS = [kind for kind, (_, options) in KINDS.items() if kind != "LORA" and "num_virtual_tokens" not in options]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", IN_LAYERS)
def test_an_adapter_of_any_kind_is_attached_whole_or_refused(kind, base, tmp_path):
    """PEFT attaches what is there, with a warning: the base would be scored in the place of the layer that lacks."""
    assert len(IN_LAYERS) == 11
    logits, _ = of_kind(kind, base, tmp_path)
    assert torch.equal(restored(base, tmp_path), logits)
    tensors = load_file(tmp_path / foreign.WEIGHTS)
    part = {name: tensor for name, tensor in tensors.items() if "layers.1" not in name}
    assert len(part) < len(tensors)
    save_file(part, tmp_path / foreign.WEIGHTS)
    with pytest.raises(ValueError, match=r"lacks tensors that .*layers\.1"):
        restored(base, tmp_path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["VERA", "PVERA", "RANDLORA"])
def test_projections_that_are_drawn_again_do_not_lack(kind, base, tmp_path):
    logits, _ = of_kind(kind, base, tmp_path, save_projection=False)
    assert torch.equal(restored(base, tmp_path), logits)


@pytest.mark.parametrize(
    ("place", "name", "seed"),
    [("lora/seed-0", "lora", 0), ("lora/seed_1", "lora", 1), ("lora-seed2", "lora", 2), ("lora", "lora", None)],
)
def test_a_folder_that_is_a_seed_has_the_name_of_the_one_around_it(place, name, seed, base, tmp_path):
    """lora/seed-0 and lora/seed-1 were two methods of one seed each."""
    made(base, tmp_path / place, target_modules=PROJECTIONS)
    adapter = foreign.read(tmp_path / place, place)
    assert (adapter.name, adapter.seed) == (name, seed)
