"""The corpus of a pretraining: its sources with what is held out of each, and the texts for a tokenizer."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from smidgen.config import WORLD, PretrainRecipe, SourceConfig
from smidgen.data.corpus import curriculum, documents, tokenizer_documents
from smidgen.data.documents import DocumentFile, Documents, Placed, Survey, key_of
from smidgen.files import sha256_file
from smidgen.training.mixing import Mix, mix_of
from smidgen.training.pretrain import TextSource

TOKENIZER_DOCUMENTS = 20_000
"""Training documents of a tokenizer: 4 MB of text, in which every word of the world occurs many times."""
CHARACTERS_A_TOKEN = 1000
"""Characters of training text for each entry of a tokenizer that is trained on a mix."""


@dataclass(frozen=True)
class Corpus:
    """The sources of a recipe, of which files have been surveyed.

    Attributes:
        recipe: the recipe.
        surveys: what was found in each file, by the name of its source.
    """

    recipe: PretrainRecipe
    surveys: Mapping[str, Survey]

    @cached_property
    def configs(self) -> tuple[SourceConfig, ...]:
        """The sources as the recipe names them."""
        return self.recipe.data.all_sources

    @cached_property
    def mix(self) -> Mix:
        """Which source each row is from."""
        settings = self.recipe.train
        names = [source.name for source in self.configs]
        return mix_of(self.recipe.all_phases, names, max_length=settings.max_length, seed=settings.seed)

    @cached_property
    def shares(self) -> dict[str, float]:
        """Share of each source in the whole training."""
        names = [source.name for source in self.configs]
        return dict(zip(names, self.mix.total_shares, strict=True))

    def training_sources(self) -> list[TextSource]:
        """Return the sources with their training documents; a single one has no name in the metrics."""
        return [
            TextSource(
                name=source.name if len(self.configs) > 1 else "",
                documents=self._training(source),
                num_documents=self._num_documents(source),
            )
            for source in self.configs
        ]

    def held_out(self, source: SourceConfig) -> Iterator[str]:
        """Yield the documents that are held out for validation; those of the world have no end."""
        if source.path == WORLD:
            yield from documents(self.recipe.data.seed + 1)
            return
        threshold = self.surveys[source.name].threshold
        yield from (text for _, text in file_of(source).read(0) if key_of(text) <= threshold)

    def tokenizer_texts(self, vocab_size: int) -> Iterator[str]:
        """Yield texts to train a tokenizer on, of each source in proportion to its share."""
        seed = self.recipe.data.seed
        if [source.path for source in self.configs] == [WORLD]:
            yield from tokenizer_documents(seed, TOKENIZER_DOCUMENTS)
            return
        for source in self.configs:
            most = CHARACTERS_A_TOKEN * vocab_size * self.shares[source.name]
            texts = (text for _, text in self._training(source)(0))
            if source.path == WORLD:
                texts = tokenizer_documents(seed, TOKENIZER_DOCUMENTS)
            yield from _up_to(texts, most)

    def _training(self, source: SourceConfig) -> Documents:
        """Return the reader of the training documents of a source.

        The curriculum of the world is for a new model that reads nothing else.
        """
        seed = self.recipe.data.seed
        if source.path == WORLD:
            alone = len(self.configs) == 1 and self.recipe.model.base is None
            stream = curriculum if alone else documents
            return lambda place: (
                Placed(index, text) for index, text in enumerate(stream(seed, place), start=place)
            )
        file, threshold = file_of(source), self.surveys[source.name].threshold
        return lambda place: (found for found in file.read(place) if key_of(found.text) > threshold)

    def _num_documents(self, source: SourceConfig) -> int | None:
        if source.path == WORLD:
            return None
        survey = self.surveys[source.name]
        return survey.documents - survey.held_out


def file_of(source: SourceConfig) -> DocumentFile:
    """Return the reader of a source that is a file."""
    return DocumentFile(Path(source.path), source.text)


def source_hashes(recipe: PretrainRecipe) -> dict[str, str]:
    """Return the hash of each file by its source's name; the generated text is identified by its seed.

    Raises:
        ConfigError: the template of a document is invalid.
        DataError: a file is missing, or its first row is not a document.
    """
    hashes = {}
    for source in recipe.data.all_sources:
        if source.path == WORLD:
            hashes[source.name] = WORLD
        else:
            file_of(source).check()
            hashes[source.name] = sha256_file(Path(source.path))
    return hashes


def _up_to(texts: Iterator[str], characters: float) -> Iterator[str]:
    """Yield texts until they have a number of characters together."""
    for text in texts:
        if characters <= 0:
            return
        yield text
        characters -= len(text)
