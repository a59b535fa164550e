"""The bundled folder in transformers: the same scores and, for 50 prompts, the same greedy text."""

import numpy as np
import pytest

from smidgen.backend import mx
from smidgen.data.types import Message, Request, Sample, Sampling
from smidgen.data.world_items import items
from smidgen.inference import open_engine
from smidgen.models.graph import body, logits
from smidgen.models.load import load, resolve
from smidgen.options import EngineOptions

pytestmark = [
    pytest.mark.oracle,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
PROMPTS = [item.prompt for item in items("test", 50, seed=3)]
NEW_TOKENS = 24


@pytest.fixture(scope="module")
def reference():
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    folder = resolve("smidgen:nano")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return model, transformers.AutoTokenizer.from_pretrained(folder)


def prompt_ids(tokenizer, prompt: str):
    return tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}],
        add_generation_prompt=True,
        enable_thinking=False,
        return_tensors="pt",
        return_dict=True,
    )["input_ids"]


def test_logits(reference):
    model, tokenizer = reference
    ours = load("smidgen:nano").model
    for prompt in PROMPTS:
        ids = prompt_ids(tokenizer, prompt)
        wanted = model(input_ids=ids).logits.detach().numpy()
        found = logits(ours, body(ours)(mx.array(ids.tolist())))
        np.testing.assert_allclose(np.array(found), wanted, rtol=0, atol=1e-4)


def test_greedy_text(reference):
    model, tokenizer = reference
    engine = open_engine(EngineOptions("smidgen:nano"))
    requests = [
        Request(Sample(str(number), (Message("user", prompt),)), Sampling(max_tokens=NEW_TOKENS))
        for number, prompt in enumerate(PROMPTS)
    ]
    found = {request.sample.id: completion.text for request, completion in engine.complete(requests)}
    wanted = {}
    for number, prompt in enumerate(PROMPTS):
        ids = prompt_ids(tokenizer, prompt)
        made = model.generate(input_ids=ids, max_new_tokens=NEW_TOKENS, do_sample=False)
        wanted[str(number)] = tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True)
    assert found == wanted
