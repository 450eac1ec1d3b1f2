"""More ways in which people ask for a role, beside those that the page generator knows; for the finder's training only.

A block is a role's name and questions, expanded as `synthetic.meaning.phrase` does. Held-out roles have none.
"""

from __future__ import annotations

from random import Random

from rave_mlx.synthetic.meaning.phrase import expand

_TABLE = """
payable: what did it come to / what did everything come to / how much is on the bill / what does the bill come to
payable: how much do they [want|ask for|charge] / what am I being charged
payable: what did the whole [thing|purchase|meal|order|trip|stay] [cost|come to]
payable: how much [money ]do I have to [send|transfer|hand over] / what did I spend [there|in all|] / total pls
payable: what's the damage
payable: what did the [crossing|ride|journey|room|repair|treatment|visit|delivery|job] cost
payable: how expensive was [it|that|this] / price altogether
payable: amount I must transfer / what do they charge me / how much in total / how much was everything
payable: sum at the bottom / final price
subtotal: what was it before [tax|VAT|the extras] / price of the goods alone / sum without [tax|VAT|shipping]
subtotal: what do the goods cost
tax: how much of it is tax / what part is [tax|VAT] / how much goes to the state / tax on [it|the bill|the order]
tip: what did the waiter get / what was left for the staff / how much for service / extra for the waiter
paid: how much cash was [handed over|put down|given] / what did [I|we|the customer] give [the cashier|in cash]
paid: what was handed over / amount given
paid: how much money did the customer [give|hand over] / how much did I put on the counter
change: what was [returned|given back] to me / how much came back / what money was returned
change: how much did I receive back
discount: how much cheaper was it / what did the coupon bring / how much came off / what was I let off
discount: how much less did I pay
shipping: what does it cost to send it / how much to ship it / what is charged for [delivery|sending it|postage]
deposit: what was paid beforehand / how much had been paid already / what do I pay up front
deposit: what must be left as security
balance_old: what did the account start with / how much was there before / money at the beginning / balance last time
balance_new: what is in the account now / how much do I have now / money at the end / what's left in the account
balance_new: how much have I saved
minimum: smallest amount I can pay / what must I pay at least / lowest payment
rent: what does the [room|garage|flat|place|house] cost [a|per] month / how much per month
rent: what do they pay for the [garage|flat|room]
gross: pay before [tax|deductions] / what is earned before deductions / salary before tax / how much did the job bring
net: what lands in the account / pay after [tax|deductions] / how much is paid out / what does [she|he] really get
net: how much came in
withheld: how much tax [came|was taken] off the pay / what went to the tax office / tax taken from the wages
pension: how much for [old age|retirement] / what goes into the pension
health_pay: what is taken for health / how much is the health part
premium: what does being insured cost / how much a year for the insurance / price of the cover
excess: what part must I pay myself / how much do I carry myself / what do they not cover
sum_insured: how much is covered / up to how much do they pay / most that they pay
fee: what does it cost to [take part|enter|get in|be a member|register] / how much to [join|get in|take part]
fee: cost of the [class|course|visit] / what do I pay to get in
price: what did the ticket cost / how much for one / cost of the ticket / how much was the fare / what does one cost
refund: how much will I get back / money that comes back / what do they pay back
issuer: name of the [bank|hotel|cinema|cafe|restaurant|company|firm|garage|club|school|library|museum|hospital|practice]
issuer: who made [the offer|this offer|the quote|the bill]
issuer: who is behind this / who do I owe [money|this]
issuer: which [bank|hotel|cinema|cafe|restaurant|school|library|museum|club|garage] is [it|this]
issuer: what's the [shop|place|firm|business] called / where did I [eat|stay|fill up|buy it|get this]
issuer: who is the sender / where is it from / who wants to be paid
issuer: which shop sold it / who runs it / who printed this / what company sent it / from whom is it
issuer: whose letterhead is it / who gave me this
recipient: who gets it / who gets the [parcel|letter|invoice|goods|order] / who do they want the money from
recipient: who is the [buyer|customer|client] / who was it sold to
recipient: for whom is it / who ordered / who bought it / who should pay / name of the person who ordered
recipient: who is the parcel for / who is being charged
holder: who is on the card / what's the name on [it|the card] / whose is it / what is [he|she] called
holder: who does the [card|account|badge|policy] belong to / name of the member
holder: [first and last name|name of the owner|person's name|full name please] / who is this person / who filled it in
holder: who applied / who is shown
passenger: who has the ticket / who flies / who is travelling / name on the [ticket|boarding pass|booking]
passenger: traveller's name / who booked / in whose name
patient: who went to the doctor / who is sick / name of the sick person / whose prescription is it
patient: whose results are these / who was tested
employee: who is the worker / who works here / whose payslip is it / who got the wages / who gets paid
employee: name of the worker
insured: who has the insurance / who took out the policy / who is protected / name on the policy
signer: whose signature is it / who put their name to it / who sends the regards / who sends it / who wrote
signer: from whom is the letter
contact: who do I ask if I have questions / who helps me / who can tell me more / who is responsible
contact: who do I write to / person I can talk to
cashier: name of [our|the] waiter / who brought the food / who was working / who took the money / who attended to us
cashier: who was at the counter
doctor: which doctor / who examined [me|him|her] / name of the [dentist|vet|GP|surgeon|eye doctor]
doctor: who treated the patient / who saw me
driver: who was driving / who came with the delivery / who brought it here / name of the driver
receiver: who took the goods in / who accepted the parcel / who signed when it came / who got the delivery
emergency: who should they call if something happens / who to ring in an emergency / person to call
chair: who runs the [class|course|meeting] / who gives the [talk|lesson|course] / who teaches / who opened the meeting
chair: who is in charge / who led the meeting
employer: where does the person work / who pays [her|him] / company that employs [him|her]
employer: who does the person work for / which firm pays
carrier: who brings the parcel / who delivers it / which airline / who takes it there / how was it sent
carrier: company that delivers
address: where is [the shop|the company|the place|the hotel] / where do I find them / where are they located
address: which street / where should I go / where do I have to go
home: where does [he|she|the person|the customer|the patient] live / where should it be delivered / where does it go
home: where is the parcel sent / private address / where was it sent
city: which town / in what town / what city / town name
postcode: zip / post code please / postal code of the place
country: which country / from what country / where in the world
origin: where from / from where / where does it start from / where do we leave / station where I get on / first stop
destination: where to / where am I headed / where does the [train|bus|plane|ferry] go [to|] / where are we going
destination: where do I get off / last stop / where do we land
venue: where is [the party|the concert|the talk|the game|the trip|the course] / where do we meet
venue: place of the [event|meeting|show] / where is that / where should I come
artist: who will play / who gives the concert / which group / who is performing / name of the band / who's on
event: which [film|play|show|talk|course|event] is it / what film is [it|on] / what's on / what can I see
event: name of the [film|show|play|course] / what am I invited to
bank: name of the bank / which bank / where is the account / bank please / who holds the account
table_no: which table did we sit at / where were we sitting / table?
guests: how many of us / for how many people / number of diners / how many came / party size
item_count: how many things did I buy / how many pieces / number of products / how many articles
parcels: how many boxes came / how many pieces were sent / how many parcels
vat_rate: percent of [tax|VAT] / what rate of VAT / how high is the tax in percent
interest: what percent do they pay / how many percent interest / what does the loan cost a year
weight: how many kilos / how heavy / how much did it weigh / weight of it
usage: how much [water|gas|power|electricity|energy] was [used|taken|consumed] / what did we use
usage: how much did the house use
reading_new: what does the meter say / meter now / latest reading / reading at the end
reading_old: what did the meter say / meter before / earlier reading / reading at the start
battery: how much charge is left / how many percent battery / is the battery full
network: which wifi / name of the wifi / what is the wlan called / which wifi am I on
resolution: screen size in pixels / how sharp is the screen set / how many pixels
version: what version / which release / software version please
language: what language / which language does it speak / language set
theme: light or dark / how does it look / look of the screen
status: how is it going / is it done / what's the state / what does the status say / printer status
status: how does it stand / has it arrived
job: what is [his|her] [position|trade|profession|job] / what does [he|she] work as / what is [she|he] at the company
job: trade / line of work
department: where in the company / which team / which part of the company / which section does [he|she] work in
access: where can [he|she] go / how far does the badge let him
seat: where do I sit / my seat / which chair / seat please / where is my place
gate: which gate / where do I get on / where must I go to board
platform: which track / where does the train leave from / from which track / which platform is mine
coach: which car / which wagon / carriage please
room_no: which room / where is it exactly / room please / what room am I in / where in the building
floor: what floor / how high up / which storey
subject: what is the letter about / why did they write / what do they write about / reason for the letter
subject: what is this regarding
terms: how soon must I pay / when is payment expected / how are we to pay
medicine: what was prescribed / which pills / name of the [medicine|drug|pills] / what should I take
dose: how is it taken / how often should it be taken / when do I take it / how much of it
product: what was [bought|ordered|sold|repaired] / which model is it / what thing is it / what is inside
product: what was sent / which article
cover_type: what kind of [insurance|contract|plan] / which contract / which tariff do I have
currency: in what money / which money / currency?
heading: what is written on top / heading / title / name of the page / what's the headline / what is this list called
heading: how is the page titled
issued: when was [the bill|the invoice|the letter|the report] [written|made|issued]
issued: date on [it|the paper|the letter|the invoice] / which day was it written / from when is it / day on the bill
bought: when did I [pay|buy it|go shopping|eat there|fill up|stay there] / day I was there / which day did I shop
bought: when was that / date on the [receipt|slip|ticket]
due: last day for the money / until when / when must I pay at the latest / until when do I have to pay / by when
due: pay until / latest date for paying / when do they want the money
delivered: when does the parcel come / when should [it|the parcel] be here / day it arrives / when did it come
delivered: when will I have it
expires: until when can I use it / how long is the [offer|card|pass|ticket|voucher] good [for|] / when is it over
expires: last day of use / when does it stop being valid
begins: when does it start / first day / from when on / when does the [lease|contract|course|work|job] start
ends: when is it over / last day / until when does it run / when does it stop
born: how old / birthday / when is the [person|holder|patient|child|member] born / date of birth please
born: year of birth
signed: when did they sign / day of signing / date below the signature
event_date: what day / which day is it / on what day
event_date: when is the [party|concert|trip|show|talk|appointment|game|class|visit] / when should I come
event_date: when is that
travel_date: what day is the [crossing|flight|trip|journey] / when do I fly / which day do I go / date of the flight
travel_date: when is the trip / day of departure
check_in: when do we come / first night / when can we move in / when do they arrive
check_out: when do we go / when do we have to leave / last morning
period: which months / for what time is it / what weeks does it cover / which month is this for / which year
clock: at what time / what time was it bought / hour and minute / what was the time / what did the clock say
starts_at: when does it begin / what time / from what time on / when do I have to be there
starts_at: at what hour does it start / what time do I have to be there
departs: when does the [ferry|train|bus|plane|flight|coach] [leave|go|sail|start] / what time do we leave
departs: when do we set off / time it leaves / when do I depart
arrives: when are we there / what time do I get there / when do we arrive
arrives: when does the [ferry|train|bus|plane|flight] get in
boarding: when should I be at the gate / when do they let us in / what time can I get on
duration: how long / how many minutes / how much time / how many hours does it go / for how long
document_no: what number does the [bill|invoice|receipt|document|quote] have / [invoice|receipt|bill|quote] no
document_no: number on [it|the invoice|the receipt] / receipt number please
order_no: what number does the order have / order no / number of my order / which order is it
customer_no: my number there / number of the customer / client no / what number am I at the shop
account: which account / account no / number of the account / which bank account should I pay into
iban: iban please / where to in IBAN form / what IBAN do I pay to
card_no: [last four digits|number] of the card / which card / card ending / digits of the card
card_type: how was it [settled|paid] / what card was used / cash or card / how did I pay / which kind of card
card_type: paid with what
auth: approval / authorization please / auth code
till: which till / which register / till no
store_no: which branch / branch no / number of the shop
tax_id: tax number please / VAT no / number at the tax office / tax id of the seller
employer_no: number of the employer / EIN / employer's number
person_no: social security please / number of the person / SSN
staff_no: staff number / number of the employee / personnel no / which number does [he|she] have at work
reference: what should I quote / reference please / what do I write on the transfer / ref
tracking: how can I follow the parcel / tracking please / number to follow the parcel / parcel number
policy_no: number of the insurance / policy no / contract number of the insurance
booking: booking code / reservation / what code did I get for the booking / booking please
flight: which flight / flight no / what am I flying on / number of the plane
train: which train / train no / what train is mine
plate: number plate / what does the car have for a plate / which car
serial: s/n / number of the machine / device number
phone: what number can I call / how do I reach them / phone please / where can I ring / number to call / tel
mobile: cell / mobile please / cell number
mail: where do I write to / e-mail please / email of the [company|shop|person|office] / where can I send a mail
mail: electronic address
site: their website / web page / where on the internet / homepage
height: how tall / height please
data_used: how much space is gone / how full is the storage / gigabytes used
ip_address: address of the computer in the network / ip please
row: what row / row please
travel_class: which class / first or second class
hours_open: when can I go / opening times / how late are they open / when are they there / until when are they open
hours_open: when do they close
"""
_SHARE = 0.4
"""How many of the questions for these roles are asked in these words."""


def _read(table: str) -> dict[str, tuple[str, ...]]:
    out: dict[str, list[str]] = {}
    for line in table.strip().splitlines():
        role, _, rest = line.partition(": ")
        out.setdefault(role, []).extend(text for part in rest.split(" / ") for text in expand(part.strip()))
    return {role: tuple(dict.fromkeys(" ".join(text.split()) for text in texts)) for role, texts in out.items()}


WORDINGS = _read(_TABLE)
"""Questions by the role that they are for."""


def reworded(rng: Random, question: str, role: str, kind: str) -> str:
    """A question as it is, or in other words.

    Args:
        rng: the generator to draw from.
        question: which asks for the value of a role.
        role: that it asks for.
        kind: of question, as the generator has it; others than "value" and "absent" are left.
    """
    texts = WORDINGS.get(role)
    if texts is None or kind not in ("value", "absent") or rng.random() >= _SHARE:
        return question
    text = rng.choice(texts)
    form = rng.random()
    if form < 0.5:
        text = text[:1].upper() + text[1:]
    return text + "?" if rng.random() < (0.75 if form < 0.5 else 0.3) else text
