"""What the front desk says, in its languages. `registered` is said after SY.identity answered ok, and never else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Sayings:
    """One language. Braces are filled in by the desk."""

    ask_both: str
    ask_name: str
    ask_email: str
    kept: str
    again: str
    later: str
    code_sent: str
    code_wrong: str
    code_void: str
    code_wanted: str
    code_unsent: str
    email_bad: str
    email_known: str
    registered: str
    joined: str
    not_joined: str
    away: str
    closed: str
    question_lost: str
    nothing_asked: str
    passing: str


ENGLISH: Final = Sayings(
    ask_both="Welcome! Before I pass you on: what is your name, and which e-mail address can we reach you at?",
    ask_name="What is your name?",
    ask_email="Which e-mail address can we reach you at?",
    kept="I have kept your question.",
    again="I did not find it in what you wrote.",
    later="Let us leave it for now. Whenever you like, write your name and your e-mail address in one message.",
    code_sent="I have sent a code to {email}. Please write its six digits here.",
    code_wrong="That is not the code. Please look again.",
    code_void="That code is no longer valid. Which e-mail address can we reach you at?",
    code_wanted="Please write the six digits that I have sent to {email}, or another e-mail address.",
    code_unsent="I could not send a code to {email}. Please write the address again, or another one.",
    email_bad="That e-mail address cannot be used. Please write another one.",
    email_known=(
        "That e-mail address is known here, and I cannot check just now that it is yours, so I do not join the two."
        " Please write to us from that address, or give me another one."
    ),
    registered="Thank you, {name}. You are registered.",
    joined="Thank you, {name}. I know you already, and have put your conversations together.",
    not_joined="I could not put you together with the contact we know. Please give me another e-mail address.",
    away="I cannot complete this just now. I keep what you told me; please write again in a few minutes.",
    closed="We cannot take new contacts here at the moment.",
    question_lost="I could not pass your question on. Please write it again in a few minutes.",
    nothing_asked="What can we do for you?",
    passing="One moment, I am passing you on.",
)
SPANISH: Final = Sayings(
    ask_both=(
        "¡Bienvenido! Antes de pasarle con quien le ayuda: ¿cómo se llama y a qué correo electrónico podemos"
        " escribirle?"
    ),
    ask_name="¿Cómo se llama?",
    ask_email="¿A qué correo electrónico podemos escribirle?",
    kept="He guardado su pregunta.",
    again="No lo encuentro en lo que ha escrito.",
    later="Dejémoslo por ahora. Cuando quiera, escriba su nombre y su correo electrónico en un solo mensaje.",
    code_sent="He enviado un código a {email}. Escriba aquí sus seis cifras, por favor.",
    code_wrong="Ese no es el código. Mírelo otra vez, por favor.",
    code_void="Ese código ya no es válido. ¿A qué correo electrónico podemos escribirle?",
    code_wanted="Escriba las seis cifras que he enviado a {email}, o bien otro correo electrónico.",
    code_unsent="No he podido enviar un código a {email}. Escriba la dirección otra vez, o bien otra.",
    email_bad="Ese correo electrónico no se puede usar. Escriba otro, por favor.",
    email_known=(
        "Ese correo electrónico ya se conoce aquí y ahora no puedo comprobar que sea suyo, así que no uno los dos"
        " contactos. Escríbanos desde esa dirección o deme otra."
    ),
    registered="Gracias, {name}. Ya está registrado.",
    joined="Gracias, {name}. Ya le conocíamos, y he unido sus conversaciones.",
    not_joined="No he podido unirle con el contacto que conocemos. Deme otro correo electrónico, por favor.",
    away="Ahora no puedo completarlo. Guardo lo que me ha dicho; escriba otra vez dentro de unos minutos.",
    closed="En este momento no podemos atender a contactos nuevos aquí.",
    question_lost="No he podido pasar su pregunta. Escríbala otra vez dentro de unos minutos, por favor.",
    nothing_asked="¿En qué podemos ayudarle?",
    passing="Un momento, le paso con quien le ayuda.",
)
LANGUAGES: Final = {"en": ENGLISH, "es": SPANISH}


def in_language(language: str) -> Sayings:
    return LANGUAGES.get(language, ENGLISH)
