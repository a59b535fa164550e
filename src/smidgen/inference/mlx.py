"""Completions from a model of mlx-lm, in batches.

Requests join and leave a bounded batch at any step (`lane`, `session`). Requests that are known in advance
are read ahead and sorted, so that shared prefixes are computed once.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from weakref import WeakSet

from smidgen.backend import mx, peak_memory_bytes
from smidgen.data.templates import Tokenizer
from smidgen.data.types import Completion, Continuations, Request, Sample, Scored
from smidgen.errors import DataError, WorkError
from smidgen.inference.adapters import Decoders
from smidgen.inference.decoder import Decoder
from smidgen.inference.drafting import Drafting, Speculations
from smidgen.inference.engine import Stream
from smidgen.inference.inbox import READ_AHEAD
from smidgen.inference.lane import Lane, LaneSettings, joining, room_for
from smidgen.inference.offline import completed, streamed
from smidgen.inference.prefixes import by_family
from smidgen.inference.row import RowBuilder
from smidgen.inference.scoring import ScoredPrompt, Trees, fitting, score_group
from smidgen.inference.session import MlxSession
from smidgen.models.load import LoadedModel


class MlxEngine:
    """An `Engine` on a loaded model. Call `refresh` after its weights have changed."""

    def __init__(
        self,
        loaded: LoadedModel,
        *,
        thinking: bool = False,
        batch_size: int = 64,
        fast_forward: bool = True,
        kv_bits: int | None = None,
        in_numpy: bool = True,
        drafting: Drafting | None = None,
    ):
        """Serve `loaded`.

        Args:
            loaded: model and tokenizer.
            thinking: passed to the chat template.
            batch_size: maximum number of rows decoded together; each adapter has its own batch.
            fast_forward: whether tokens forced by a constraint run together in one pass; does not change the
                answers.
            kv_bits: KV-cache bits, 8 or 4; default: the dtype of the model.
            in_numpy: whether the forward pass on a CPU may be that in numpy.
            drafting: how to draft tokens that a pass verifies; default: a pass gives each row one token. Does
                not change the answers.

        Raises:
            ConfigError: the model's head width does not allow a quantised KV cache.
        """
        context = int(loaded.config.get("max_position_embeddings") or 2**31)
        self._builder = RowBuilder(loaded.tokenizer, context, thinking=thinking)
        self._settings = LaneSettings(loaded.tokenizer, loaded.name, batch_size, fast_forward)
        self._decoders = Decoders(loaded, kv_bits=kv_bits, in_numpy=in_numpy)
        self._speculations = None
        if drafting is not None:
            self._speculations = Speculations(drafting, loaded, self._decoders)
        self._sessions: WeakSet[MlxSession] = WeakSet()

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer."""
        return self._settings.tokenizer

    @property
    def batch_size(self) -> int:
        """Maximum number of rows decoded together."""
        return self._settings.batch_size

    def session(self) -> MlxSession:
        """Open a session for requests that arrive over time."""
        session = MlxSession(self._builder, self._open_lane)
        self._sessions.add(session)
        return session

    def complete(self, requests: Iterable[Request]) -> Iterator[tuple[Request, Completion]]:
        """Complete requests in finishing order; see `Engine.complete`.

        Raises:
            ConfigError: a sampling setting is out of range, or a constraint cannot be enforced.
            ModelError: the chat template rejects the messages, the weights are NaN, or an adapter does not
                fit the model.
        """
        return completed(self.session(), requests)

    def stream(self, request: Request) -> Stream:
        """Complete one request and stream its text; raises as `complete` does.

        Raises:
            DataError: the prompt leaves no room in the model's context.
        """

        def fault_of(completion: Completion) -> DataError | None:
            if completion.finish_reason != "context":
                return None
            return DataError(
                f"the prompt has {len(self._builder.prompt(request.sample))} tokens and "
                f"{self._settings.name} a context of {self._builder.context}, which leaves no room for an "
                "answer; shorten the prompt"
            )

        return Stream(streamed(self.session(), request, fault_of))

    def score(
        self, samples: Iterable[Sample], continuations: Continuations, *, least_share: float = 0.0
    ) -> Iterator[tuple[Sample, Scored]]:
        """Score continuations of every sample's prompt, in batches; see `Engine.score`."""
        trees = Trees(self._builder.tokenizer, continuations)
        source = iter(samples)
        decoder = self._decoders.borrow()
        try:
            while read := [
                ScoredPrompt(sample, self._builder.prompt(sample), trees.of(sample))
                for sample in islice(source, READ_AHEAD)
            ]:
                yield from self._score_window(decoder, read, least_share)
        finally:
            decoder.clear()
            self._decoders.give_back(None, decoder)

    def refresh(self) -> None:
        """Use the current weights, after training has changed them; no requests may be pending.

        Afterwards answers are those of a newly opened engine: copied weights, adapters and KV caches are
        discarded. Sessions stay open.

        Raises:
            WorkError: requests are pending.
        """
        if pending := sum(session.pending for session in self._sessions):
            raise WorkError(
                f"{pending} requests are pending, so the weights cannot be refreshed; finish or cancel "
                "them first"
            )
        for session in self._sessions:
            session.reset()
        self._decoders.refresh()

    def peak_memory_bytes(self) -> int:
        """Return the peak memory so far, as measured by the backend."""
        return peak_memory_bytes()

    def close(self) -> None:
        """Release the model and the memory of its rows."""
        vars(self).pop("_decoders", None)
        self._speculations = None
        mx.clear_cache()

    def _open_lane(self, adapter: str | None) -> Lane:
        decoders = self._decoders
        decoder = decoders.borrow(adapter)
        speculation = self._speculations and self._speculations.open(adapter)
        return Lane(
            decoder, self._settings, lambda decoder: decoders.give_back(adapter, decoder), speculation
        )

    def _score_window(
        self, decoder: Decoder, read: Sequence[ScoredPrompt], least_share: float
    ) -> Iterator[tuple[Sample, Scored]]:
        """Score the continuations of a window of prompts."""
        context = self._builder.context
        yield from ((one.sample, Scored(None)) for one in read if one.num_tokens > context)
        due = [one for one in read if one.num_tokens <= context]
        due = [due[i] for i in by_family([one.prompt for one in due])]
        shared = decoder.share([one.prompt for one in due]) if due else 0
        while due:
            longest = max(one.num_tokens for one in due)
            room = room_for(decoder, longest, self._settings.batch_size)
            size = min(
                joining(len(one.prompt) + len(one.tree.common) - shared for one in due[:room]),
                fitting([len(one.tree.common) + 1 for one in due[:room]]),
            )
            group, due = due[:size], due[size:]
            prompts, trees = [one.prompt for one in group], [one.tree for one in group]
            scored = score_group(decoder, prompts, trees, least_share, room)
            yield from zip((one.sample for one in group), scored, strict=True)
