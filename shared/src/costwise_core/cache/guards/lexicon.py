"""Word lists the guards share: common words of a few languages, nothing of any one trade.

Each list is short on purpose. What it does not know is read as an ordinary content word, and two
questions that differ in one of those are told apart, so an unknown word costs a hit and never
serves a wrong one.
"""

from typing import Final

__all__ = ["CANONICAL", "FUNCTION_WORDS", "NEGATORS", "PHRASES"]


FUNCTION_WORDS: Final = frozenset(
    # English: articles, pronouns, auxiliaries, prepositions, courtesy, ways to open a question.
    """
    a about actually again all along already also am an and any anyone anything are as at be
    because been being both but by can could did do does doing done each either else ever
    every everyone everything exactly find for from get give go had has have having he hello
    her here hers hey hi him his how howmuch howto i if in into is it its itself just kindly
    know like may me might mine much must my need now of off ok okay on one onto or our ours
    out over please possible possibly quick really shall she should so some someone
    something tell than thank thanks that the their theirs them then there these they thing
    this those though to too try up upon us very want was way we well were what which who
    whom whose why will wish with would yes you your yours able allowed allow permitted
    legal er um erm let see when where while whether once explain describe say show process
    procedure method step going got own many currently still yet anymore instead before
    after during since until till between through within without via using against per help
    assist wonder wondering hope hoping curious list kind available exist request offer
    thanks cheers sorry excuse hiya guys folks anybody somebody basically simply ah hmm uh pls plz
    thx gonna wanna gotta
    """.split()
    # German, French, Spanish, Italian, Portuguese, Dutch: the commonest two dozen each, less those
    # that mean something in English ("die", "come", "son"). Then Chinese.
    + """
    der das ein eine einen einem einer eines und oder ist sind ich du er sie es wir ihr mein
    meine meinen meiner wie was wer wo wann warum wieso kann könnte muss soll darf im den
    dem des zu zum zur mit von auf für bei bitte man le la les un une de et ou est sont je
    tu il elle nous vous mon ma mes ce cette comment que quoi qui quel quelle quels quelles
    où quand pourquoi puis peux dois aux avec dans pour sur est-ce el los las una unos unas
    y o son yo mi mis cómo como qué cuál quién dónde cuándo puedo debo en al del por para
    con se lo gli uno della dello dei delle e è sono mio mia miei mie che cosa chi quando
    perché posso devo nel nella alla os as um uma é são eu meu minha meus minhas quem onde
    porque no na nos nas do da dos em com ao het een zijn ik jij wij mijn hoe wat waar
    wanneer waarom moet mag aan van voor op met te
    的 了 吗 呢 吧 啊 请 我 你 您 们 怎 么 什 如 何 是 在 可 以 能 要 和 与 及 这 那 个 哪
    """.split()
)
"""Words that carry grammar and courtesy, not the subject of a question."""

NEGATORS: Final = frozenset(
    """
    not no never none nobody nothing neither nor without nicht kein keine keinen keinem
    keiner nie niemals ohne nichts ne pas jamais sans aucun aucune rien nunca jamás sin
    ningún ninguna nada não sem nenhum nenhuma non mai senza nessun nessuna niet geen nooit
    zonder niets не нет без 不 没 沒 無 无 未 別 别 勿 非 안 못
    """.split()
)
"""Words that turn a sentence into its opposite."""

PHRASES: Final = {
    ("set", "up"): "make",
    ("sign", "up"): "register",
    ("sign", "in"): "login",
    ("log", "in"): "login",
    ("log", "on"): "login",
    ("log", "out"): "logout",
    ("log", "off"): "logout",
    ("sign", "out"): "logout",
    ("turn", "on"): "enable",
    ("switch", "on"): "enable",
    ("turn", "off"): "disable",
    ("switch", "off"): "disable",
    ("carry", "out"): "do",
    ("find", "out"): "find",
    ("look", "up"): "find",
    ("fill", "in"): "complete",
    ("fill", "out"): "complete",
    ("go", "live"): "activate",
    ("how", "much"): "price",
    ("per", "cent"): "percent",
    ("what", "time"): "when",
    ("best", "way"): "way",
    ("right", "way"): "way",
    ("right", "now"): "now",
    ("quick", "one"): "",
    ("quick", "question"): "",
    ("it", "take"): "",
    ("it", "takes"): "",
    ("take", "out"): "withdraw",
    ("in", "touch"): "contact",
    ("make", "sure"): "ensure",
    ("send", "back"): "return",
    ("get", "back"): "return",
    ("pick", "up"): "collect",
    ("top", "up"): "topup",
    ("back", "up"): "backup",
    ("check", "in"): "checkin",
    ("check", "out"): "checkout",
    ("e", "mail"): "email",
    ("wi", "fi"): "wifi",
    ("a", "lot"): "many",
    ("in", "order"): "",
    ("as", "well"): "",
}
"""Two words that mean what one word means; "" for nothing."""

_SAME = """
get obtain receive acquire
make create establish generate produce
buy purchase
begin start commence
finish complete
fix repair mend
choose select pick
change alter modify amend edit update
delete erase
request ask
price cost fee charge
reserve book
offer provide
big large
increase raise
small little
quick fast
kid child
phone telephone
mobile cellphone
photo picture
film movie
car automobile
job position
salary wage
error mistake
problem issue trouble
benefit advantage perk
drawback disadvantage downside
appeal contest
fine penalty
cashpoint atm
internet online
expire lapse
proof evidence
quickest fastest
common usual
answer reply
trip journey
luggage baggage
previous earlier
biggest largest
smallest littlest
hard difficult
easy simple
correct right
incorrect wrong
close shut
send transmit
happen occur
need require
doctor physician
attorney lawyer
enough sufficient
also too
maybe perhaps
nearest closest
reply respond
collect gather
extra additional
maximum max limit cap
minimum min
often frequently
hear listen
keep maintain
seem appear
total overall
reason cause
arrange organise schedule
submit lodge
shop store
rubbish trash garbage
refund reimbursement
parcel package
rent hire
taxi cab
petrol gasoline fuel
bill invoice
staff personnel employees
company firm
medicine medication
pill tablet
illness disease sickness
vaccine vaccination jab
influenza flu
house home
website site
deliver ship delivery shipping shipment
contact reach
call ring
eligible entitled qualify
compulsory mandatory obligatory
free complimentary
faulty defective
missing lost
baby infant
bike bicycle
plane aeroplane airplane
near nearby
quotation quote
symptom sign
speak talk
arrive come
display show
exchange swap
author writer
worker employee
exit leave
vary differ
postpone delay
everywhere anywhere
live reside
view see
uk britain
usa america
tv television
fridge refrigerator
info information
app application
id identification
flat apartment
lift elevator
holiday vacation
activate enable
deactivate disable
verify confirm
"""

_INFLECTED = """
paid pay
bought buy
sold sell
sent send
got get
gotten get
gets get
made make
lost lose
took take
taken take
went go
gone go
done do
did do
found find
kept keep
spent spend
given give
gave give
written write
wrote write
won win
held hold
left leave
chosen choose
chose choose
forgot forget
forgotten forget
stolen steal
broken break
broke break
children child
people person
men man
women woman
fees fee
uses use
used use
using use
dollar usd
pound gbp
euro eur
daily day
monthly month
weekly week
yearly year
annual year
annually year
verification verify
payment pay
withdrawal withdraw
withdrawn withdraw
withdrew withdraw
fully full
"""


def _canonical() -> dict[str, str]:
    table: dict[str, str] = {}
    for line in _SAME.strip().splitlines():
        first, *others = line.split()
        head = table.get(first, first)
        table[first] = head
        for other in others:
            table.setdefault(other, head)
    for line in _INFLECTED.strip().splitlines():
        word, base = line.split()
        table[word] = table.get(base, base)
    return table


CANONICAL: Final = _canonical()
"""Common words and irregular forms, each with the one word that stands for its group."""
