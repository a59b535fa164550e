"""Prove that a model folder is the model of the GGUF file that it was made from.

The same is asked as of a file that was exported: are the numbers the file's, does the tokenizer split text
as llama.cpp does with the file, does llama.cpp end where it ends, and does our graph predict what llama.cpp
predicts.
"""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType

from smidgen.errors import ModelError
from smidgen.export.checkpoint_files import Checkpoint, open_checkpoint
from smidgen.export.gguf.llama_cpp import LlamaCpp
from smidgen.export.gguf.reference_forward import next_token_logits
from smidgen.export.gguf.texts import varied_texts
from smidgen.export.gguf.verify import (
    LONGEST_PROMPT,
    TEXTS,
    compare_tokens,
    predictions,
    refuse_other_logits,
    tolerance_of,
)
from smidgen.export.gguf.write import CHUNK, plan_tensors
from smidgen.gguf.names import ROPE_DIVISORS
from smidgen.gguf.read import GgufFile, open_gguf
from smidgen.gguf.rope import EXACT
from smidgen.models.weights import read_weights

VARIED = 200
"""Texts beside the usual ones that both tokenizers are given."""
_ROUNDING = {"float32": 0.0, "float16": 2.0**-11, "bfloat16": 2.0**-8}
_SMALLEST = 2.0**-24  # of float16, subnormal


@dataclass(frozen=True)
class VerifiedImport:
    """What was compared, and how far it differs.

    Attributes:
        tensors: compared.
        numbers: compared.
        largest_error: of a number, from what the file says.
        texts: that both tokenizers split alike.
        tokens: in them.
        end_tokens: at which both end.
        logit_error: of llama.cpp's predictions from our graph's, as a share of the logits' spread.
        tolerance: what llama.cpp's arithmetic explains of it.
        seconds: that it took.
    """

    tensors: int
    numbers: int
    largest_error: float
    texts: int
    tokens: int
    end_tokens: list[int]
    logit_error: float
    tolerance: float
    seconds: float


def verify_import(file: Path, folder: Path) -> VerifiedImport:
    """Compare a model folder with the GGUF file that it was made from, which is run in llama.cpp.

    Args:
        file: the GGUF file.
        folder: what `smidgen.gguf.import_gguf` made of it.

    Raises:
        ConfigError: xllamacpp is not installed.
        ModelError: the folder is not the file's model, and the message says in what; or llama.cpp cannot load
            the file.
    """
    start = time.perf_counter()
    with open_checkpoint(str(folder)) as checkpoint, open_gguf(file) as opened:
        tensors, numbers, largest = _compare_numbers(checkpoint, opened, file)
        llama = LlamaCpp(file, context=2 * LONGEST_PROMPT)
        texts = (*TEXTS, *varied_texts(VARIED))
        tokens = compare_tokens(checkpoint, llama, texts)
        prompts, theirs = predictions(checkpoint, llama)
        ours = next_token_logits(checkpoint.graph, checkpoint.rows, prompts)
        tolerance = tolerance_of(opened)
        error = refuse_other_logits(ours, theirs, tolerance)
    return VerifiedImport(
        tensors=tensors,
        numbers=numbers,
        largest_error=largest,
        texts=len(texts),
        tokens=tokens.tokens,
        end_tokens=tokens.end_tokens,
        logit_error=error,
        tolerance=tolerance,
        seconds=time.perf_counter() - start,
    )


def _compare_numbers(checkpoint: Checkpoint, opened: GgufFile, file: Path) -> tuple[int, int, float]:
    """How many tensors and numbers were compared, and the largest error of a number."""
    dtypes = {str(v.dtype).removeprefix("mlx.core.") for v in read_weights(checkpoint.path).values()}
    rounding = max(_ROUNDING[dtype] for dtype in dtypes)
    tensors = numbers = 0
    largest = 0.0
    for planned in plan_tensors(checkpoint, GGMLQuantizationType.F32):
        share = EXACT if planned.name == ROPE_DIVISORS else rounding
        columns = planned.shape[1] if len(planned.shape) == 2 else 1
        step = max(CHUNK // columns // planned.step, 1) * planned.step
        for start in range(0, planned.shape[0], step):
            stop = min(start + step, planned.shape[0])
            ours, theirs = planned.rows(start, stop), opened.rows(planned.name, start, stop)
            error = np.abs(ours - theirs)
            if not (error <= np.abs(theirs) * share + (_SMALLEST if share else 0)).all():
                raise ModelError(
                    f"the tensor '{planned.name}' of {file} is another in {checkpoint.path}: a number in its "
                    f"rows {start} to {stop} is {error.max():.3g} off; import the file again"
                )
            largest, numbers = max(largest, float(error.max())), numbers + error.size
        tensors += 1
    return tensors, numbers, largest
