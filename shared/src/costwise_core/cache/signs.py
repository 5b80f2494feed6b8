"""Signs in a question or an answer that it must not be reused.

English is covered best, other languages by their commonest phrases. Every expression is bounded,
so that time stays linear in the text, and only the beginning of a long text is read.
"""

import re
from typing import Final

from costwise_core.cache.words import either, phrases

__all__ = ["MAX_CHARS", "abstains", "acts", "dated", "failed", "random", "volatile"]

MAX_CHARS: Final = 4_000
"""How much of a question is read; a longer one is a document with a question in it."""

MAX_ANSWER_CHARS: Final = 400
"""How far into an answer a refusal or an error may begin."""

_MOVING = either(
    "price prices rate rates weather temperature time score standings traffic "
    "value news situation stock inflation wait queue availability location conditions"
)
_VOLATILE: Final = phrases(
    rf"""
    right now\b
    at (?:the|this) moment\b
    as of now\b
    breaking news
    (?:current|latest|live|today'?s) (?:\w+ )?(?:{_MOVING})\b
    # the time and the date
    (?:what|tell me|give me|know|know what|need|check|is) (?:the )?(?:current )?(?:time|date|day)
        (?: is)?(?: it)?(?: is)?(?: right now| now| today)?\s*(?:please)?\s*(?:[?.!,]|$)
    what(?:'s| is|s) (?:the |today'?s )?(?:time|date|day)(?: it)?(?: is)?(?: now| today)?\s*
        (?:[?.!]|$)
    (?:what|which) (?:time|day|date|month|year) (?:is it|it is|is today|are we)\b
    (?:the )?(?:time|date) (?:is it )?(?:right )?now\b
    (?:what(?:'s|s| is)|tell me|know) the time (?:in|at|for)\b
    today'?s date\b
    # weather and traffic
    weather (?:like|today|tomorrow|outside|forecast|report|going|conditions)\b
    (?:what|how)(?:'s| is|s) (?:the |today'?s )?(?:\w+ )?(?:weather|traffic|temperature outside)\b
    (?:weather|traffic) (?:report|update|conditions|jam|congestion)\b
    (?:is|will|does) it (?:going to |gonna |look like )?(?:be )?(?:rain|snow)(?:ing)?\b
    (?:is|will) it (?:going to |gonna )?be (?:sunny|cloudy|windy|hot|cold|warm|humid)\b
    (?:hot|cold|warm|humid|windy|chilly) (?:is|will) (?:it|the weather)\b
    what(?:'s|s| is) the (?:temperature|forecast|humidity|traffic)\b
    do i need an umbrella\b
    (?:traffic|accidents?) (?:on|to|right|from|between|heading) (?:the|my|i-|work|home|highway|now)
    # markets and games
    (?:stock|share|bitcoin|gold|oil|crypto) price (?:of|now|today)\b
    (?:exchange|conversion|going) rates? (?:right now|today|from|between|of)\b
    what(?:'s|s| is) the (?:exchange|conversion|going) rate\b
    trading at\b
    who(?:'s| is) (?:winning|leading) (?:the|in)\b
    what(?:'s| is) (?:trending|happening now|going on (?:in|around|at))\b
    # queues and journeys
    (?:is|are) .{{1,40}} (?:open|busy|delayed|on time|landing|boarding)
         (?:right )?(?:now|yet|today)\b
    (?:how busy (?:is|will)|how long (?:is|of|will)(?: a| the)? (?:\w+ )?(?:wait|line|queue))\b
    how (?:long|many (?:days|hours|minutes)) (?:until|till) (?:the (?:next|game|show)|we)\b
    (?:status of|status for) (?:my )?(?:flight|train)\b
    flight status\b
    what(?:'s|s| is)? (?:song|track|music) (?:is|'s)? ?(?:this|playing|that|on)\b
    # other languages
    (?:gerade jetzt|im moment|derzeit|aktuelle[rns]? (?:kurs|preis|stand|wetter)|wie spät ist)\b
    (?:wetter (?:in|heute|morgen)|wie ist das wetter|aktienkurs|wechselkurs)\b
    (?:en ce moment|actuellement|quelle heure|quel temps (?:fait|fera)|taux de change actuel)\b
    (?:ahora mismo|en este momento|qué hora es|qué tiempo hace|tipo de cambio)\b
    (?:in questo momento|che ore sono|che tempo fa|agora mesmo|neste momento|que horas são)\b
    (?:op dit moment|momenteel|hoe laat is)\b
    """
)
_VOLATILE_CJK: Final = re.compile(
    "现在|目前|实时|天气|股价|汇率|几点|现价|現在の|天気|株価|何時|今の"
)
_DATED: Final = phrases(
    rf"""
    today(?:'s)?\b(?! in (?:1\d|20)\d\d)
    (?:tonight|tomorrow|yesterday)(?:'s)?\b
    this (?:morning|afternoon|evening|week|weekend|month|quarter|year)\b
    (?:next|last|past) (?:week|weekend|month|{either("mon tues wednes thurs fri satur sun")}day)\b
    (?:these days|currently|newest|most recent|so far this|nowadays)\b
    (?<!at the )latest\b
    current (?:version|release|president|ceo|prime minister|government|champion|law|season)\b
    (?:heute|gestern|diese woche|neueste[rns]?|übermorgen)\b
    (?:aujourd['’]hui|demain|cette semaine|dernière version)
    (?:hoy|ayer|esta semana|oggi|domani|ieri|questa settimana)\b
    (?:hoje|amanhã|ontem|vandaag|gisteren|deze week)\b
    """
)
_DATED_CJK: Final = re.compile("今天|明天|昨天|最新|本周|今日|明日|昨日|今週")


def volatile(text: str) -> str:
    """Return the words that ask for something that changes by the minute, or "".

    Example:
        >>> volatile("What is the current price of gold?"), volatile("What is current in amperes?")
        ('current price', '')
    """
    return _first(text, _VOLATILE, _VOLATILE_CJK)


def dated(text: str) -> str:
    """Return the words that mean something else tomorrow, or "".

    Example:
        >>> dated("Will it arrive today?"), dated("Reply by Friday at the latest.")
        ('today', '')
    """
    return _first(text, _DATED, _DATED_CJK)


_LEAD: Final = (
    r"^\W*(?:(?:hey|hi|hello|ok|okay|yes|yeah|please|kindly|now|then|and|also|just|so|"
    r"go ahead and|computer|siri|alexa|google)[\s,.!]+){0,4}"
    r"(?:(?:can|could|would|will) (?:you|u|we) |i(?: want|'d like| would like| need) (?:you|u) to |"
    r"i(?:'m| am) (?:asking|telling) you to |you (?:should|need to|must) |let's |"
    r"i(?:'ll| will) (?=take|have|go))?(?:please |kindly |just |also |maybe ){0,2}"
)
# These do something in the world whatever stands behind them, the others only to what is ours.
_DO: Final = either(
    "cancel book reserve reschedule refund unsubscribe activate deactivate unfreeze renew upgrade "
    "downgrade delete submit confirm approve purchase buy schedule transfer order block freeze pay "
    "send wire deposit withdraw dial mute unmute unlock subscribe pause rebook reorder erase rent"
)
_DO_OURS: Final = either(
    "change add remove move set open close text email message return extend report place "
    "start stop create make save share reset replace apply track upload file put increase "
    "decrease raise lower register sign switch connect lock ship notify clear redeem charge sync "
    "link insert rename take call"
)
_OURS: Final = either("my our me us it them him her")
_THINGS: Final = either(
    "alarm alarms timer reminder reminders appointment reservation reservations meeting event "
    "calendar playlist payment booking transfer order list settings volume lights light speed "
    "language accent thermostat table uber taxi cab flight hotel room"
)
_ACTS: Final = phrases(
    rf"""
    (?:{_DO}) (?:(?:{_OURS}|the|a|an|all|this|that|these|those|another|some|money)\b|
        [£$€]?\d|what you)
    (?:{_DO_OURS}) (?:up |down |off |on |out |in )?(?:{_OURS})\b
        (?! (?:an? )?(?:about|how|what|why|when|where|which|who|if|whether|to the point|difference|
        summary|list of|overview|idea|example|explanation|information|info|some|started))
    (?:{_DO_OURS}|schedule|turn|adjust|use|cancel) (?!of\b|is\b|for\b).{{0,40}}\b(?:{_THINGS})\b
        (?=$|[.!?]| (?:for|to|at|on|by|please|now|today|tomorrow|and|from|with|up|down|in|called)\b)
    i(?:'d like| want| need| would like) (?:to (?:book|reserve|rent|buy|pay|order|schedule)|an?)
         (?:\w+ ){{0,3}}?(?!list)(?:{_THINGS}|bills?|car)\b
    (?:play|skip|shuffle) (?!is\b|are\b|was\b|of\b|a role|in the)
        (?:me |some |the |my |this |that |next )?\w+
    (?:turn|switch|shut) (?:on|off|up|down)\b
    (?:turn|switch|shut) (?:the|my|all)\b.{{1,30}}\b(?:on|off|up|down)\b
    (?:remind me|wake me|sign me up|check me in|log me (?:in|out)|roll over my)\b
    (?:text|call|phone|ring|email|message) (?!of\b|is\b|center|centre|number)\w+
         (?:and|that|to|about|for)\b
    (?:call|phone|dial) (?!cent|of\b|is\b)\w+(?: \w+)?(?: (?:now|please))?[.!]?$
    (?:stop|pause|cancel|resume|silence|repeat|undo|skip)(?: (?:it|that|this|please|now))*[.!]?$
    (?:next song|pick an? (?:song|track)|find my (?:phone|keys)|speak (?:slower|faster|up))
    never mind\b
    # assent to an offer
    (?:go ahead|go on|do (?:it|that|so)|proceed|please do|book it|make it so)\b[^?]{{0,30}}$
    # other languages
    (?:bitte )?(?:storniere?n?|kündigen?|buchen?|bestellen?|überweisen?|sende|schicke?|lösche?n?)
        (?: sie| mir| bitte){{0,2}} (?:mein\w*|den|die|das|ein\w*|unser\w*|\d)
    (?:annulez?|réservez?|commandez?|envoyez?|supprimez?|virez?)[ -](?:moi )?
        (?:m[aeo]n?s?|une?|l[ae]s?)\b
    (?:cancel[ae]|reserv[ae]|env[ií][ae]|pid[ea]|paga|borra|transfiere)(?:me)?
         (?:mis?|una?|el|las?|los)\b
    (?:annulla|cancella|prenota|ordina|invia|trasferisci)(?:mi)? (?:il|l[ae]|i|una?|mi[oa])\b
    (?:cancele|reserve|envie|pague|apague|transfira) (?:[oa]|meu|minha|uma?)\b
    (?:annuleer|boek|reserveer|bestel|stuur|betaal|verwijder) (?:mijn|een|de|het)\b
    """,
    start=_LEAD,
)
_ACTS_CJK: Final = re.compile(
    "^(?:请|帮我|麻烦)*(?:取消|预订|订购|发送|删除|转账|支付)(?:我|一|这|那|了)|"
    "(?:キャンセル|予約|送信|削除|注文)して(?:くだ|下さい|$|。)"
)
_HOW: Final = re.compile(r"\b(?:how (?:to|do|can|does)|what happens|instructions)\b")
_RANDOM: Final = phrases(
    r"""
    (?:flip|toss) (?:a|the|me a) coin
    (?:coin (?:flip|toss)|heads or tails)\b
    roll (?:(?:a|the|some|two|2|me|\d+|your) ){0,2}(?:\w+[- ]sided |pair of )?(?:die|dice|d\d+)\b
    (?:random|pick a|choose a|think of a) (?:random )?number\b
    (?:at random|surprise me|make me laugh|something else instead)\b
    (?:tell|give|know|share|say|have|hear)(?: me| us)? (?:any |some |a |an |another )?(?:\w+ ){0,2}
        (?:jokes?|riddle|puns?|fun fact|trivia)\b
    (?:say that|generate|regenerate|answer)(?: it| this)? again\b
    (?:würfle|münze werfen|pile ou face|cara o cruz|testa o croce)\b
    """
)


def acts(text: str) -> str:
    """Return the words that tell somebody to do something in the world, or "".

    Asking how something is done is no action, nor is asking for text.

    Example:
        >>> acts("Cancel my order"), acts("How do I cancel my order?"), acts("Explain this to me")
        ('cancel my', '', '')
    """
    found = _first(text, _ACTS, _ACTS_CJK)
    return "" if found and _HOW.search(text[:MAX_CHARS].lower()) else found


def random(text: str) -> str:
    """Return the words that ask for another answer each time, or "".

    Example:
        >>> random("flip a coin please")
        'flip a coin'
    """
    return _first(text, _RANDOM)


_SOURCE = either(
    "context document documents passage passages text sources articles article excerpts"
)
_ABSTAINS: Final = phrases(
    rf"""
    as an? (?:large |ai |artificial )?(?:ai|language model|intelligence)\b
    i(?:'m| am) (?:sorry|afraid)\b[^.]{{0,60}}\b(?:cannot|can't|unable|not able|don't|do not|no)\b
    i(?:'m| am) (?:not able|unable) to\b
    i (?:can't|cannot|can not|won't|will not|must decline to)
         (?:help|assist|answer|provide|comply|do|fulfill?|discuss|find|determine|browse|access|give|
        share|create|generate|engage|support|tell|see|be)\b
    i (?:do not|don't) (?:know|have (?:any|enough|sufficient|specific|the|that|real|access|info|
        details))
    i have no (?:information|idea|data|knowledge|access)
    (?:{_SOURCE}|information)(?: (?:provided|given|above|supplied|i have|available))?
         (?:do|does|did)(?: not|n't) (?:\w+ )?(?:mention|contain|include|provide|specify|say|state|
        address|give|discuss|cover|have|answer|indicate)
    (?:is|are|was|were)(?: not|n't) (?:\w+ )?(?:mentioned|provided|specified|stated|included|found|
        given|contained|available|discussed|covered|present) (?:in|by|anywhere in)
         (?:the|this|any|my)\b
    (?:no|not enough|insufficient) (?:relevant )?(?:information|context|details?|mention|results?)
         (?:about|on|of|is|are|was|were|in|to|for|regarding|found|available)\b
    cannot be (?:determined|answered|found|inferred)\b
    (?:content (?:policy|filter|management policy)|empty response)\b
    violates? (?:our|the) (?:usage |content )?polic
    my (?:knowledge|training)(?: data)? (?:cut|ends|only|goes)
    (?:als (?:ki|sprachmodell)|tut mir leid|es tut mir leid)\b
    ich (?:kann|weiß|habe) (?:\w+ ){{0,3}}(?:nicht|keine)\b
    (?:je ne (?:peux|sais|dispose)|je suis désolée?|désolée?,)
    (?:lo siento|no (?:puedo|sé|tengo información))\b
    (?:mi dispiace|non (?:posso|so|ho informazioni)|desculpe|não (?:posso|sei|tenho))\b
    (?:het spijt me|ik (?:kan|weet) (?:\w+ ){{0,2}}niet)\b
    """
)
_ABSTAINS_CJK: Final = re.compile(
    "抱歉|对不起|我无法|不知道|没有提到|未提及|申し訳|できません|わかりません"
)
_NOTHING: Final = re.compile(
    r"^\W*(?:unanswerable|no answer|not (?:found|specified|mentioned|available|stated|given)|"
    r"n/?a|unknown)\W*$"
)
_FAILED: Final = phrases(
    r"""
    traceback \(most recent
    (?:\w{1,40}\.){0,5}\w{0,40}(?:error|exception)\s{0,3}[:(]
    (?:error|http) ?\d{3}\b
    [45]\d\d (?:internal|bad|service|gateway|not found|forbidden|unauthorized|too many)
    (?:internal server error|service unavailable|bad gateway|gateway time|too many requests)
    (?:request timed out|timed out|rate limit exceeded|connection (?:error|refused|reset))
    <?(?:!doctype )?html\b
    (?:null|none|nan|undefined|object object)\W{0,3}$
    \{\s{0,9}"(?:error|errors|detail)"\s{0,9}:
    """,
    start=r"^[\s\[<*`\"']{0,9}",
)


def abstains(answer: str) -> str:
    """Return the words with which an answer refuses or says that it does not know, or "".

    Example:
        >>> abstains("The provided context does not mention the CEO.")
        'context does not mention'
    """
    return _first(answer[:MAX_ANSWER_CHARS], _ABSTAINS, _ABSTAINS_CJK, _NOTHING)


def failed(answer: str) -> str:
    """Return how an answer begins that looks like an error message, or "".

    Example:
        >>> failed("Error: rate limit exceeded"), failed("Errors are values in Go.")
        ('error:', '')
    """
    return _first(answer[:MAX_ANSWER_CHARS], _FAILED)


def _first(text: str, *rules: re.Pattern[str]) -> str:
    text = text[:MAX_CHARS].lower().replace("’", "'")
    for rule in rules:
        match = rule.search(text)
        if match:
            return match[0].strip()
    return ""
