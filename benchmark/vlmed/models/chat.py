"""How a generator is spoken to: its processor's own chat template, or the form its family was trained with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from vlmed.errors import InputError


class Chat(Protocol):
    """A user's turn as one text, ready for the processor.

    Attributes:
        anchor: The last words before an answer, as they stand after any prompt.
        lead: What stands between them and an answer: a space or nothing.
    """

    @property
    def anchor(self) -> str: ...

    @property
    def lead(self) -> str: ...

    def render(self, prompt: str, with_image: bool) -> str:
        """The text to tokenize, with the mark that the processor replaces by image tokens.

        Raises:
            InputError: The model can't be asked without an image.
        """
        ...


@dataclass(frozen=True)
class Form:
    """A prompt form from the time before chat templates.

    Attributes:
        text: With `{image}` and `{prompt}`.
        image: What marks the image's place; empty where the processor puts it first by itself.
        anchor, lead: See `Chat`.
        needs_image: The architecture takes no text alone.
    """

    text: str
    image: str = ""
    anchor: str = ""
    lead: str = ""
    needs_image: bool = True

    def render(self, prompt: str, with_image: bool) -> str:
        """See `Chat.render`."""
        if self.needs_image and not with_image:
            raise InputError(
                "the model can't be asked without an image",
                expected="a request with an image",
                got="image None",
                hint="use control:blank/REF to ask it without seeing",
            )
        return self.text.format(image=self.image if with_image else "", prompt=prompt)


# By transformers' model_type. Sources: the model cards and documentation pages of each family in transformers;
# PaliGemma's task prefix from big_vision's PaliGemma readme. Its processor adds the line break itself.
FORMS = {
    "llava": Form("USER: {image}{prompt} ASSISTANT:", "<image>\n", "ASSISTANT:", " ", needs_image=False),
    "blip-2": Form("Question: {prompt} Answer:", anchor="Answer:", lead=" "),
    "instructblip": Form("{prompt}", anchor="?", lead=" "),
    "paligemma": Form("{image}answer en {prompt}", "<image>", anchor="\n"),
}


@dataclass(frozen=True)
class Template:
    """The chat template of a processor: the user's turn, then the beginning of the answer's."""

    processor: Any

    def render(self, prompt: str, with_image: bool) -> str:
        """See `Chat.render`."""
        return str(self.processor.apply_chat_template([_user(prompt, with_image)], add_generation_prompt=True))

    @property
    def anchor(self) -> str:
        """See `Chat`."""
        return self.render("?", with_image=False)

    @property
    def lead(self) -> str:
        """See `Chat`; read off a finished answer, or where one begins otherwise, by the last character before it."""
        answer = {"role": "assistant", "content": [{"type": "text", "text": "yes"}]}
        before = self.anchor
        finished = str(self.processor.apply_chat_template([_user("?", with_image=False), answer]))
        if finished.startswith(before):
            lead, found, _ = finished.removeprefix(before).partition("yes")
            if found and not lead.strip(" "):
                return lead
        return "" if before[-1:].isspace() else " "


def _user(prompt: str, with_image: bool) -> dict[str, Any]:
    image = [{"type": "image"}] if with_image else []
    return {"role": "user", "content": [*image, {"type": "text", "text": prompt}]}


def chat_of(processor: Any, model_type: str, folder: Path) -> Chat:
    """The processor's chat template, or the family's form.

    Raises:
        InputError: There is neither.
    """
    if getattr(processor, "chat_template", None):
        return Template(processor)
    if model_type not in FORMS:
        raise InputError(
            "the model brings no chat template, and its family has no prompt form that is known here",
            file=folder,
            expected=f"chat_template.jinja or a `chat_template` in processor_config.json; or one of {', '.join(FORMS)}",
            got=f"model_type {model_type!r}",
            hint="if this is a base model, take its instruction-tuned version",
        )
    return FORMS[model_type]
