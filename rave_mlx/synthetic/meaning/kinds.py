"""Values of the roles' kinds that are numbers in some form, or one of a list."""

from __future__ import annotations

import re
from random import Random

from rave_mlx.synthetic.values import digits, letters

_PATTERNS = """
account ########|#########|##########|###########|#### #### ##|###-#####-#|####-######
battery <1-100>%|<1-100> %
bic @@@@@@##|@@@@@@##@@@|@@@@@@@@
card ************####|**** **** **** ####|XXXX XXXX XXXX ####|xxxx-####|...####|XXXXXXXXXXXX####|**####|**** ####
code @@####@|##-####|@#@#@#|######
data_size <1-250>.<0-9> GB|<1-250>.<0-9> GB|<1-900> MB|<1-99> GB
digits ##|###|####|#####|######|########|##########
duration <1-90> minutes|<5-120> min|<1-12> hours|<2-60> days|<1-12> weeks|<2-36> months
flight @@ <10-9999>|@@<100-9999>
gate <1-40>|A<1-60>|B<1-60>|C<1-60>|D<1-60>|E<1-60>|F<1-60>|G<1-60>
height <148-202> cm|<148-202> cm|<4-6>'<0-11>"|1.<50-99> m
iban_full DE## #### #### #### #### ##|AT## #### #### #### ####|GB## @@@@ #### #### #### ##|NL## @@@@ #### #### ##
iban_full FR## #### #### #### #### ##|CH## #### #### #### #### #|NO## #### #### ###|PL## #### #### #### #### ####
ip 192.168.<0-255>.<1-254>|10.0.<0-255>.<1-254>|172.16.<0-255>.<1-254>
kwh <100-999> kWh|<1-99>,### kWh|<1-99> ### kWh|<100-99999> kWh|<1-99>.### kWh|<10-999> m3|<100-9999> units
model X|Pro|Mini|S|Plus <2-900>|Air|X<10-90>|S<100-900>|<100-9000>
period 01.0<1-6>.20<12-29> - 30.<10-12>.20<12-29>|~ <1-9> - ~ <10-28>, 20<12-29>|~ 20<12-29>|~ - ~ 20<12-29>
period 0<1-9>/20<12-29> to <10-12>/20<12-29>|Q<1-4> 20<12-29>
person_no ###-##-####|@########|######-####|@@ ## #####|#########
plate @@## @@@|@@@ ####|@ @@ ####|@@-###-@@
rate <1-99>%|<1-99> %|5%|6%|7 %|10%|19 %|20%|21%|<1-29>.<0-9>%
room <1-450>|Room <1-40>|A<1-320>|B<1-320>|C <1-320>|D<1-99>
seat <1-60>A|<1-60>B|<1-60>C|<1-60>D|<1-60>E|<1-60>F|<1-120>|<1-120>
seat_row @|@|<1-40>
small <1-6>|<1-12>|<1-40>
sort_code ##-##-##|##-##-##|#########
span <7-11>:00 - <14-22>:00|<7-11>:30 - <14-22>:00|<7-11>:00-<14-22>:30|<7-11>:30 – <14-22>:30|<7-11>-<14-22>
span <7-11> am to <2-10> pm|<7-11> am - <2-10> pm|<7-11>.00 to <14-22>.00
ssid -5G|_guest| WLAN|-Home|-###
tax_id GB#########|DE#########|FR#########|SE#########|##-#######|### #### ##|############
tracking 1Z #### #### ##|JD #### #### ##|RR #### #### ##|CP #### #### ##|##########|@@#########@@
train IC <1-2999>|ICE <1-999>|RE <1-99>|S <1-9>|EC <1-999>|TGV <1000-9999>|Bus <1-299>
version <1-18>.<0-12>.<0-40>|<1-18>.<0-12>|v<1-9>.<0-9>.<0-9>
weight <1-90>.<0-9> kg|0.<10-99> kg|<1-90> kg|<1-90>.<0-9> lb|<20-990> g|<1-40>.## KG
zone_name Zone @|Level <1-6>|Area @|Sector <1-9>
"""
"""Forms of a kind between bars: # is a digit, @ a capital letter, ~ a month, <a-b> a number between two."""
_LISTS = """
medicine Ibuprofen <1-8>00 mg|Amoxicillin <1-5>00 mg|Paracetamol 500 mg|Metformin 850 mg|Cetirizine 10 mg
medicine Aspirin <1-3>00 mg
medicine Omeprazole <10-40> mg|Lisinopril <5-40> mg|Vitamin D|Loratadine <5-20> mg
blood A+|B+|0+|AB+|A-|B-|O-|AB-
card_type VISA|Visa|MASTERCARD|Mastercard|Visa Debit|AMEX|Maestro|PayPal|Cash|Debit card|Credit card|EFTPOS
cover Home and garden|Third party|Comprehensive|Basic|Family|Flex 12|Standard plan|Travel|Premium|Student
cover Unlimited M
department Sales|Purchasing|Accounts|Human Resources|IT|Logistics|Research|Marketing|Customer Service|Radiology
dose 1 tablet twice a day|2 tablets daily|1 capsule every 8 hours|3 x 1 after meals|1 in the evening
dose 10 ml three times a day
floor 1st|2nd|3rd|4|5|Ground floor|12|7|Basement
job Nurse|Teacher|Electrician|Accountant|Driver|Engineer|Cook|Sales assistant|Software developer|Librarian|Clerk
job Project manager|Designer|Technician|Carpenter|Pharmacist|Architect|Editor|Gardener|Lab assistant|Mechanic
job Analyst
resolution 1920 x 1080|2560 x 1440|1280 x 720|3840 x 2160|1366 x 768|1600 x 900|1440 x 900|2880 x 1800
sex M|F|male|female
size_label S|M|L|XL|38|40 x 60 cm|42|120 x 80|One size
state IL|CA|NY|TX|Ohio|Kent|Bavaria|WA|OR|Ontario|Selangor|Johor|FL|NSW|Queensland
status Paid|Open|Pending|Shipped|Closed|In progress|Approved|Rejected|Completed|New|Draft|Cancelled|Active|Valid
subject New parking rules|Your order|Meeting on Friday|Renewal of your contract|Reminder|New prices
subject Repair of the roof|Your application|Change of address|Delivery delay|Annual report|Your complaint|Invitation
subject Maintenance work|Payment reminder|Missing documents|End of your subscription|Water supply|Parking permit
subject Test results|Holiday request|Safety inspection
terms Net 30 days|30 days net|14 days|Due on receipt|Cash on delivery|Net 14|7 days|60 days net|2% 10, net 30
terms In advance
theme Dark|Light|System|High contrast|Sepia|Automatic
travel_class 1st|2nd|Economy|Business|First|Standard|Premium Economy
zone UTC+1|UTC|GMT+8|Europe/Paris|America/Chicago|CET|UTC-5|Asia/Tokyo
"""
_MONTHS = [
    "Jan",
    "Feb",
    "Mar",
    "Apr",
    "May",
    "Jun",
    "Jul",
    "Aug",
    "Sep",
    "Oct",
    "Nov",
    "Dec",
    "January",
    "March",
    "April",
    "June",
    "July",
    "August",
    "September",
    "October",
]
_MARK = re.compile(r"#|@|~|<(\d+)-(\d+)>")


def _read(table: str) -> dict[str, tuple[str, ...]]:
    """Forms by kind."""
    out: dict[str, tuple[str, ...]] = {}
    for line in table.strip().splitlines():
        kind, _, forms = line.partition(" ")
        out[kind] = out.get(kind, ()) + tuple(forms.split("|"))
    return out


_FORMS = _read(_PATTERNS) | _read(_LISTS)
KINDS = frozenset(_FORMS)


def plain(rng: Random, kind: str) -> str:
    """A value of one of `KINDS`.

    Args:
        rng: the generator to draw from.
        kind: of the value.
    """

    def fill(match: re.Match[str]) -> str:
        if match[1]:
            return str(rng.randint(int(match[1]), int(match[2])))
        if match[0] == "~":
            return rng.choice(_MONTHS)
        return digits(rng, 1) if match[0] == "#" else letters(rng, 1)

    return _MARK.sub(fill, rng.choice(_FORMS[kind]))
