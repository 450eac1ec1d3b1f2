"""Word lists of the synthetic documents: people, places, goods, labels and the names questions use for them."""

from __future__ import annotations


def _words(text: str) -> list[str]:
    """The words of a text."""
    return text.split()


def _phrases(text: str) -> list[str]:
    """Entries between bars or line ends."""
    return [entry.strip() for line in text.strip().splitlines() for entry in line.split("|")]


FIRST = _words(
    """
    Anna Ben Carla David Elena Frank Grace Henry Ivy Jonas Karen Leo Maria Nils Olga Peter Quinn Rosa Sam Tina Umar
    Vera Walter Xenia Yusuf Zoe Amir Bella Chen Diego Emma Felix Hana Igor Julia Kofi Lina Marco Nina Omar Priya
    Ravi Sofia Tom Uma Viktor Wendy Adam Clara Erik Jürgen Zoë René Łukasz Søren Inês Mary John Linda James Susan
    Robert Paul Ruth
    """
)
LAST = _words(
    """
    Smith Jones Miller Garcia Brown Kim Novak Rossi Silva Khan Meyer Dubois Ivanov Tanaka Cohen Larsen Murphy Patel
    Costa Weber Fischer Moreau Nguyen Lopez Clark Hughes Wright Young Baker Hill Green Adams Nelson Carter Evans
    Turner Parker Collins Reed Morgan Bell Cooper Ward Gray Foster Hayes Long Price Wood Stone Müller Gómez Lefèvre
    Öberg O'Brien Johnson Williams Davis Wilson Anderson Taylor Thomas Moore Martin Lee Walker Hall Allen King Scott
    """
)
CITIES = _words(
    """
    London Paris Berlin Madrid Rome Oslo Vienna Prague Dublin Lisbon Athens Warsaw Zurich Geneva Boston Chicago
    Denver Seattle Austin Dallas Miami Toronto Sydney Tokyo Osaka Delhi Mumbai Cairo Lagos Lima Bogota Quito Kyoto
    Milan Turin Lyon Nice Bergen Malmö Ghent Köln München Hamburg Leeds York Bath Oxford Porto Basel Graz Houston
    Portland
    """
)
GOODS = _phrases(
    """
    Coffee|Tea|Bread|Butter|Milk|Cheese|Apples|Bananas|Rice|Pasta|Soup|Salad|Burger|Pizza|Sandwich|Juice|Water|Sugar
    Salt|Pepper|Eggs|Honey|Jam|Cake|Cookies|Paper|Pens|Stapler|Ink|Folder|Lamp|Cable|Mouse|Keyboard|Battery|Screws
    Nails|Paint|Brush|Hammer|Soap|Towel|Socks|Shirt|Jacket|Gloves|Hat|Book|Ticket|Parking|Orange Juice|Green Tea
    Hot Chocolate|Ice Cream|Olive Oil|Tomatoes|Potatoes|Onions|Carrots|Chicken|Fish|Beef|Yogurt|Muffin|Croissant|Bagel
    Espresso|Latte|Cappuccino|Beer|Red Wine|Lemonade|Fries|Chips|Notebook|Printer|Monitor|Desk|Chair|Desk Lamp
    USB Cable|Toner|Stamps|Envelope|Batteries|Bulb|Garden Hose|Plant Pot|Light Bulb|Shampoo|Toothpaste|Napkins|Flour
    Candles|Tape|Glue|Scissors|Pencil|Eraser|Marker|Labels|Delivery|Installation|Repair|Consulting|Design|Training
    Support|Hosting|Cleaning|Labour|Shipping box
    """
)
TITLES = _phrases(
    """
    INVOICE|RECEIPT|ORDER FORM|DELIVERY NOTE|Registration|Packing Slip|Purchase Order|STATEMENT|Membership
    Visitor Pass|Boarding Pass|Work Order|Sales Receipt|QUOTE|Travel Form|Lab Report|Shipping Label|Bank Slip
    Service Report|Time Sheet|TAX INVOICE|Credit Note|Booking|Library Card|Job Sheet|Certificate|Price List
    Annual Report|Meeting Notes|Application Form|Rental Agreement|Order Summary|Patient Record|Account Statement
    Registration Form|Inventory|Stock List|Daily Menu|Schedule|Timetable|Expense Report|Sales by Region
    Weekly Report|Payment Advice|Insurance Claim|Customer Details|Repair Ticket|Proof of Delivery|Course Results
    Warranty Card
    """
)
SHOP = _phrases(
    "Ltd|Shop|Inc|Store|Cafe|Bank|Market|GmbH|& Sons|Bakery|Hotel|Foods|Pharmacy|Bistro|Garage|Clinic|Books|Supply"
)
PLAIN_WORDS = _words(
    """
    the of and to in is for on that by this with you it not or be are from at as your all have new more an was we
    will home can us about if page my has free but our one other do no information time they site may up what which
    their news out use any there see only so his when contact here business who web also now help get view online
    first been would how were services some these click its like service than find price date back top people had
    list name just over state year day into email two health world next used go work last most products music buy
    data make them should product system post her city add policy number such please available copyright support
    message after best software then good video well where info rights public books high school through each links
    she review years order very privacy book items company read group need many user said does set under general
    research university january mail full map reviews program life know games way days management part could great
    united hotel real item international center must store travel comments made development report off member
    details line terms before hotels did send right type because local those using results office education national
    car design take posted internet address community within states area want phone shipping reserved subject
    between forum family long based code show even black check special prices website index being women much sign
    file link open today
    """
)
SYLLABLES = _words(
    """
    ba be bi bo bu ca ce co da de di do fa fe fi fo ga ge go ha he hi ho ja jo ka ke ki ko la le li lo lu ma me mi
    mo mu na ne ni no nu pa pe pi po ra re ri ro ru sa se si so su ta te ti to tu va ve vi vo wa we wi xa ya yo za
    zo qui thy
    """
)

# Label, kind of value, and other names a question may use. A leading * keeps the label out of training.
_LABELS = """Date|date|date of the document
Due|date|due date
Due date|date|payment deadline
Invoice date|date|date of the invoice
Order date|date
Issued|date|issue date
Expires|date|expiry date
Valid until|date
Date of birth|date|birth date
Born|date|birthday
Delivery date|date
Arrival|date|arrival date
Departure|date|departure date
Time|time
Start|time|start time
End|time|end time
Opens|time|opening time
Name|name
Full name|name|name
First name|first|given name
Last name|last|surname
Customer|name|customer name
Client|name|client name
Contact|name|contact person
Patient|name|patient name
Employee|name|employee name
Bill to|name|recipient of the bill
Ship to|name|recipient
Sold to|name|buyer
Cashier|name
Served by|name|server
Manager|name
Doctor|name
Driver|name
Guest|name|guest name
Passenger|name
Author|name
Teacher|name
*Signed by|name|signer
City|city
From|city|origin
To|city|destination
Branch|city
Location|city
Country|country
Total|amount|total amount
TOTAL|amount|total
Grand total|amount
Amount due|amount
Total due|amount
Subtotal|amount
Tax|amount|tax amount
VAT|amount
Tip|amount
Amount|amount
Balance|amount
Price|amount
Discount|amount
Paid|amount|amount paid
Cash|amount
Change|amount
Fee|amount
Shipping|amount|shipping cost
Rent|amount
Salary|amount
*Deposit|amount
Phone|phone|phone number
Tel|phone|telephone number
Telephone|phone
*Mobile|phone|mobile number
Fax|phone|fax number
Email|mail|email address
E-mail|mail|email
Website|site
Qty|count|quantity
Quantity|count
Pages|count|number of pages
Age|count
Floor|count
Guests|count|number of guests
Weight|measure
Height|measure
Width|measure
Length|measure
Volume|measure
Distance|measure
Rate|percent
VAT rate|percent
Interest|percent
Score|percent
Zip|zip|zip code
Postcode|zip|postal code
Status|word
Type|word
Color|color|colour
*Brand|word
Category|word
Department|word
Subject|word
Model|id|model number
Ref|id|reference
Reference|id|reference number
SKU|id
IBAN|iban
Card|card|card number
Payment|pay|payment method
Street|street
Address|street
Company|company
Sender|company
Supplier|company
Shop|company
Course|word
Table|count|table number
Currency|currency
Language|language
Nationality|country"""
PREFIXES = _words(
    """
    Order Invoice Batch Member Account Client Policy Ticket Room Gate Seat Flight Item Lot Serial Project Case
    Booking Patient Vendor Customer Receipt Contract License Permit Tracking Employee Student Tax
    """
)
SUFFIXES = {
    "No": "number",
    "No.": "number",
    "ID": "ID",
    "Code": "code",
    "Number": "number",
    "#": "number",
    "Ref": "reference",
}
HELD_PREFIXED = ("Vendor Ref", "Gate Code", "Lot Number", "Case ID", "Permit No", "Flight ID")
"""Of the labels made of a prefix and a suffix, those that are held out."""


def _labels() -> dict[str, tuple[str, tuple[str, ...], bool]]:
    """The table of labels: `Label|kind of value|other names ...` a line, with a star in front where it is held out."""
    out = {}
    for line in _LABELS.splitlines():
        label, kind, *names = line.split("|")
        out[label.removeprefix("*")] = (kind, tuple(names), label.startswith("*"))
    return out


LABELS = _labels()
"""Label to (kind of value, other names, held out)."""

COUNTRIES = _words(
    "Germany France Spain Italy Norway Sweden Poland Japan India Brazil Canada Mexico Kenya Egypt Peru Chile"
)
COLORS = _words(
    """
    red blue green black white grey yellow orange purple brown silver gold Navy Teal Pink
    """
)
CURRENCIES = _words(
    """
    EUR USD GBP CHF SEK JPY CAD AUD
    """
)
LANGUAGES = _words(
    """
    English German French Spanish Italian Polish Swedish Dutch Greek Turkish
    """
)
PAYMENTS = _phrases(
    """
    Cash|Visa|Mastercard|Credit card|Debit card|Bank transfer|PayPal|Cheque|Amex
    """
)
MONTHS = _words(
    """
    January February March April May June July August September October November December
    """
)
MONTHS_DE = _words(
    """
    Januar Februar März April Mai Juni Juli August September Oktober November Dezember
    """
)
REGIONS = _words(
    """
    North South East West Central Online Retail Export Home Abroad Q1 Q2 Q3 Q4 2021 2022 2023 2024 2025
    """
)
