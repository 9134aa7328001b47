"""Train the small tokenizer of state tracking in text: python -m data.state_tracking.make_tokenizer

It has the words of the stories, letters, digits and all bytes, so that it can encode any text. Its file is part of the
project; training it again with the same sentencepiece gives the same file.
"""

from io import BytesIO
from pathlib import Path

from data.state_tracking.documents import FAMILIES, training_document

DOCUMENTS, PIECES = 20_000, 640


def main() -> None:
    from sentencepiece import SentencePieceTrainer

    documents = (training_document(0, number, tuple(FAMILIES), (1, 16)).text for number in range(DOCUMENTS))
    model = BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=(line for document in documents for line in document.splitlines()),
        model_writer=model,
        model_type="bpe",
        vocab_size=PIECES,
        hard_vocab_limit=False,
        byte_fallback=True,
        split_digits=True,  # so that the tokens of an answer do not depend on what follows it
        character_coverage=1.0,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        num_threads=1,
        minloglevel=2,
    )
    Path(__file__).with_name("tokenizer.model").write_bytes(model.getvalue())


if __name__ == "__main__":
    main()
