"""Personal data in a question or an answer: facts about the asker, names, numbers with checks."""

import re
from typing import Final

from costwise_core.cache.words import either, phrases

__all__ = ["personal"]

MAX_CHARS: Final = 4_000

_ASKED = (
    r"(?:what(?:'s|s| is| are| was| were)?|how (?:much|many|high|good)|when(?:'s| is| are| was)?|"
    r"where(?:'s| is| are)?|show me|tell me|check|read|look up|give me|find out|need to know)"
)
_FACTS = either(
    "balance balances transaction transactions spending statement bill bills order orders parcel "
    "package delivery refund appointment appointments reservation reservations booking flight "
    "flights itinerary schedule calendar meeting meetings agenda reminder reminders list todo "
    "payslip paycheck payday salary income pay taxes vacation pto leave points rewards usage "
    "inbox messages emails voicemail alarm alarms grades score limit rent mortgage insurance "
    "subscription membership location name age birthday address account accounts savings debt "
    "credit payment payments apr rate routing due benefits playlist mileage tank tires purchase "
    "purchases w2 deductible tasks raise boss manager phone iban pin password expire expires"
)
# Nobody else has these, whatever is asked about them.
_MINE = either(
    "payslip paycheck payday salary income pto vacation reminder reminders calendar appointment "
    "appointments reservation reservations meeting meetings schedule rewards points apr playlist "
    "tank tires location application flight booking inbox voicemail agenda todo w2"
)
# Between "what is" and "my balance" stand few words but these.
_BETWEEN = either(
    "the is are was were on in of for from about me at to all any current total date amount status "
    "due next last latest recent remaining available level number up out and a there left some"
)
_IDS = either("number no id ref reference iban password pin ssn birthday dob phone policy")
_ABOUT_ME: Final = phrases(
    rf"""
    {_ASKED}(?: (?:{_BETWEEN})){{0,5}}
         (?:my|our) (?:\w+(?:'s)? ){{0,3}}?(?:{_FACTS})\b(?! cards?\b)
    (?:my|our) (?:\w+ ){{0,2}}?
        (?:{_MINE}|(?:shopping|grocery|to[- ]do|task) list|credit limit|interest rate)\b
    (?:do|did|can) i (?:still )?have (?:any|anything|enough)\b(?! (?:option|choice|right))
    (?:how (?:much|many)|what)\b[^.?!]{{0,40}}\b(?:do|did|have|am) i (?:\w+ )?
        (?:got|owe|spen[dt]|used|left|taken|earn|made|paid|paying|getting)\b
    (?:how (?:much|many)|what)\b[^.?!]{{0,40}}\b(?:i've|i have|i) (?:owe|spent|left|taken|earned)\b
    (?:do i (?:owe|have any)|have i (?:spent|used|taken|got any)|am i (?:overdrawn|owed))\b
    (?:has|did|have|is|was) my (?:order|parcel|package|refund|payment|salary|application|request)\b
    (?:who am i|where am i\??$|what(?:'s| is) on my|when do i get paid)\b
    my (?:full )?name(?:'s| is) \w
    i(?:'m| am) called \w
    my (?:home |e-?mail |postal )?address is\b
    (?:my|our) (?:\w+ ){{0,2}}(?:{_IDS})
        (?: is| was|:)? [\w-]{{0,10}}\d
    # other languages
    mein\w* (?:kontostand|bestellung|rechnung|termine?|gehalt|saldo|guthaben|umsätze)\b
    (?:ich heiße|mein name ist)\b
    (?:mon|ma|mes) (?:solde|commande|facture|salaire|rendez-vous)\b
    je m['’]appelle\b
    mi (?:saldo|pedido|factura|sueldo|cita)\b
    (?:me llamo|mi chiamo|ik heet|meu nome é)\b
    (?:il )?mio (?:saldo|ordine|conto)\b
    (?:meu|minha) (?:saldo|pedido|salário|fatura)\b
    mijn (?:saldo|bestelling|factuur|afspraak)\b
    """
)
_ABOUT_ME_CJK: Final = re.compile(
    "我的(?:余额|订单|账单|账户|工资|预约)|我叫|私の(?:残高|注文|請求|名前|予約)"
)
# "How do I find my balance?" and "Can I move my booking?" have one answer for everybody.
_FOR_ALL: Final = phrases(
    r"""
    how (?:do|can|could|should|would) (?:i|we|you)\b
    (?:how to|why|what happens|what if|what should|is it possible)\b
    (?:can|could|may|should|must) (?:i|we) (?!see|get|have|know|find)
    (?:am i allowed|do i need to)\b
    """
)
_REFERENCE: Final = re.compile(
    r"\b(?:order|booking|reservation|invoice|ticket|case|account|policy|tracking|parcel|claim|"
    r"reference|ref|customer|member|membership|employee|bestellung|commande|pedido|ordine)\s{0,2}"
    r"(?:(?:number|no\.?|id|ref|nr\.?|#|:|is)\s{0,2}){0,3}(?=[a-z-]{0,10}\d)[a-z0-9-]{5,24}\b"
)
_EMAIL: Final = re.compile(r"[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{2,63}){1,4}")
_PHONE: Final = re.compile(
    r"(?<![\w.,/-])(?<!\d )(?:\+\d{1,3}[ .-]?(?:\(?\d{1,4}\)?[ .-]?){2,5}\d{2,4}"
    r"|\(?0\d{2,4}\)?[ .-]\d{2,4}(?:[ .-]?\d{2,4}){1,3}|\(?\d{3}\)?[ .-]\d{3}[ .-]\d{4})(?![\w-])"
)
_IBAN: Final = re.compile(r"\b[A-Z]{2}[0-9]{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b")
_CARD: Final = re.compile(r"(?<![\w.,-])[0-9](?:[ -]?[0-9]){12,18}(?![\w-])")
_SSN: Final = re.compile(r"(?<![\w-])[0-9]{3}-[0-9]{2}-[0-9]{4}(?![\w-])")


def personal(text: str, *, secrets_only: bool = False) -> str:
    """Return what kind of personal data a text gives or asks for, or "".

    Card numbers and IBANs count only if their check digits are right.

    Args:
        text: A question or an answer; its first 4,000 characters are read.
        secrets_only: Look for card numbers, IBANs and social security numbers only, since the
            answer to anybody's question may hold a telephone number or an address.

    Example:
        >>> personal("What's my balance?"), personal("My card hasn't arrived, what do I do?")
        ("facts about the asker (what's my balance)", '')
        >>> personal("pay from 4111 1111 1111 1111", secrets_only=True)
        'a card number'
    """
    text = text[:MAX_CHARS]
    if any(_luhn(match[0]) for match in _CARD.finditer(text)):
        return "a card number"
    if any(_mod97(match[0]) for match in _IBAN.finditer(text)):
        return "an IBAN"
    if _SSN.search(text):
        return "a social security number"
    if secrets_only:
        return ""
    if "@" in text and _EMAIL.search(text):
        return "an e-mail address"
    if _PHONE.search(text):
        return "a telephone number"
    low = text.lower().replace("’", "'")
    if _REFERENCE.search(low):
        return "a reference number"
    if _FOR_ALL.search(low):
        return ""
    facts = _ABOUT_ME.search(low) or _ABOUT_ME_CJK.search(low)
    return f"facts about the asker ({facts[0].strip()})" if facts else ""


def _luhn(number: str) -> bool:
    """Check a card number's last digit (ISO/IEC 7812-1, annex B)."""
    digits = [int(sign) for sign in number if sign not in " -"][::-1]
    doubled = (2 * digit - 9 * (digit > 4) for digit in digits[1::2])
    return any(digits) and (sum(digits[::2]) + sum(doubled)) % 10 == 0


def _mod97(iban: str) -> bool:
    """Check an IBAN's check digits (ISO 13616)."""
    code = iban.replace(" ", "")
    if not 15 <= len(code) <= 34:
        return False
    return int("".join(str(int(sign, 36)) for sign in code[4:] + code[:4])) % 97 == 1
