"""Roles of numbers and names that identify something, and of ways to reach somebody."""

IDS = """
document_no id document_no
= Invoice no. / Invoice # / INVOICE NO / Invoice number / No. / Receipt / Receipt no. / Bill no. / Receipt #
= Document no.
= Invoice No / RECEIPT NO / Rcpt / Bill number / Statement no. / Slip no. / Inv. no.
n invoice number / receipt number / document number / number of the document / bill number / invoice no / receipt no
? what number [does it have|does the bill have|is the invoice|is on the receipt|is the receipt]
? which number [does the invoice have|is it|does this document have]
k invoice_number / receipt_number / document_number / invoice_no / bill_number / invoice_id / invoiceNumber

order_no id order_no
= Order no. / Order / Order # / Order number / ORDER ID / Purchase order / PO number / Order ID / PO # / Your order
n order number / order ID / order no / purchase order number / PO number / number of the order
? [what|which] number does the order have
? under which number was it ordered
k order_number / order_id / po_number / purchase_order_number

customer_no id customer_no
= Customer no. / Customer ID / Client no. / CUSTOMER NO / Customer number / Account ref / Member no. / Cust. no.
n customer number / customer ID / client number / my customer number / membership number
? what is my [customer number|number as a customer|client number]
? which number do they have me under
k customer_number / customer_id / client_id / member_number

account account account
= Account / Account no. / Account number / ACCOUNT NO / A/C / Acct / Acc. no. / Bank account
n account number / account / bank account / number of the account
? which account [is it|do I pay into|should I pay into|should I transfer it to|is this about]
? what [account number|account] is it
k account_number / account_no / bank_account / account

iban iban_full iban
= IBAN / IBAN: / IBAN no.
n IBAN / IBAN number / international account number
? [what is|which is|what's] the IBAN
? which IBAN [do I pay to|should I transfer it to]
k iban / IBAN / bank_iban

bic bic bic
= BIC / SWIFT / SWIFT code / BIC/SWIFT
n BIC / SWIFT code / bank code
? [what is|what's|which is] the [BIC|SWIFT code]
k bic / swift_code

sort_code sort_code sort_code
= Sort code / Routing no. / Routing number / SORT CODE / Bank code
n sort code / routing number
? what [sort code|routing number] [do they have|do I use]
k sort_code / routing_number

card_no card card_no
= Card / Card no. / CARD / Card number / Acct / Card #
n card number / card digits / last digits of the card / number of the card
? [which|what] card number [was used|is it|is printed]
? what are the [last four digits of the card|last digits|digits of the card]
k card_number / card_last_four / card_digits

card_type card_type pay
= Card type / Paid by / Payment / Payment method / Method / Tender / Paid with / PAYMENT TYPE
n payment method / card type / type of card / way of payment / kind of card
? how [did I pay|was it paid|did they pay|was this paid]
? [which|what] [card|kind of card] [was used|did I use|did I pay with]
? what did I pay with
k payment_method / card_type / payment_type

auth id auth
= Auth code / Approval / AUTH / Approval code / Auth. code / APPROVAL CODE / Authorization
n authorization code / approval code / auth code
? [which|what] code was the payment approved with
k auth_code / approval_code / authorization_code

terminal digits terminal
= Terminal / TID / Terminal ID / TERMINAL / Term. no.
n terminal / terminal number / terminal ID
? [which|what] [terminal|terminal number] [was used|is it]
k terminal_id / terminal

merchant_id digits merchant_id
= Merchant ID / MID / Merchant no. / MERCHANT / Merchant number
n merchant ID / merchant number
? what number does the merchant have
k merchant_id

till digits till
= Till / TILL / Register / REG / Till no. / Register no. / Kasse / Lane / POS
n till / register / till number / lane / register number
? [which|what] [till|register|lane] [was it|was it paid at|was I at|did I pay at]
k register_number / till / lane_number

store_no digits store_no
= Store / Store no. / STORE / Branch / Store # / Branch no. / Shop no.
n store number / branch number
? [which|what] [branch|store number] is it
? what number does the store have
k store_number / branch_number

tax_id tax_id tax_id
= VAT no. / VAT No / Tax ID / VAT Reg No / GST no. / GST ID / USt-IdNr. / EIN / TIN / ABN
n VAT number / tax ID / tax number / VAT registration number
? what is their [VAT number|tax number|tax ID]
k tax_id / vat_number / vat_id / tax_number

employer_no id employer_no
= Employer no. / Employer ID number / Employer identification number / EIN / Employer number
n employer ID number / employer number / employer identification number
? what number does the employer have
k employer_id / ein / employer_number

person_no person_no person_no
= Social security number / SSN / ID no. / Personal no. / ID number / Document no. / Passport no. / License no. / ID No
n ID number / personal number / social security number / passport number / license number / number of the card
? what number does [the pass|the card|he|she|the licence] have
k id_number / ssn / passport_number / license_number

staff_no digits staff_no
= Staff no. / Employee no. / Personnel no. / STAFF ID / Employee ID / Badge no.
n staff number / employee number / badge number / employee ID
? what number does the employee have
k employee_id / staff_number / badge_number

control_no id control_no
= Control number / Control no. / CONTROL NO / Control
n control number / control no
? [what|which] is the control number
k control_number

reference id reference
= Reference / Ref / Ref. / Our ref / Your ref / REF / REFERENCE / Reference no. / File no. / Case no.
n reference / reference number / file number / case number
? [which|what] reference [do I give|do I use|should I quote|must I state]
k reference / reference_number / case_number / file_number

tracking tracking tracking
= Tracking no. / Tracking number / Tracking / Parcel no. / Consignment / TRACKING #
n tracking number / parcel number / tracking code
? what number can I track [it|the parcel] with
? how do I track it
k tracking_number / tracking_code

policy_no id policy_no
= Policy no. / Policy number / POLICY NO / Policy / Contract no. / Contract number
n policy number / contract number / number of the policy
? what number does the [policy|insurance|contract] have
k policy_number / contract_number

booking id booking
= Booking / Booking ref / Booking code / PNR / Reservation / Confirmation no. / Booking no. / BOOKING REF / Ticket no.
n booking code / booking reference / reservation number / confirmation number / booking number / ticket number
? [what|which] code do I need [to check in|for check-in|at the counter]
? what number does the [booking|reservation|ticket] have
k booking_reference / pnr / confirmation_number / ticket_number

flight flight vehicle
= Flight / FLIGHT / Flight no.
n flight / flight number
? [which|what] flight [is it|am I on|do I take]
k flight_number / flight

train train vehicle
= Train / TRAIN / Train no. / Service / Line / Bus
n train / train number / line
? [which|what] train [is it|do I take|am I on|do I have to take]
k train_number / train

*vessel word vessel
= Vessel / Ship / Ferry / VESSEL / Boat
n ship / vessel / ferry
? [which|what] [ship|ferry|vessel] is it
k vessel_name / ship

plate plate plate
= Plate / Registration / Licence plate / Vehicle reg. / License plate / Reg. no.
n licence plate / registration number / number plate / license plate
? what [plate|registration] does the car have
? which car is it
k license_plate / registration_number

serial id serial
= Serial no. / S/N / Serial number / SERIAL / Serial
n serial number / number of the device
? what serial number does [it|the device] have
k serial_number

*meter digits meter
= Meter no. / Meter / Meter number / METER NO
n meter number / number of the meter
? [which|what] meter is it
k meter_number

*password code password
= Password / Wi-Fi password / PIN / Access code / Code / Network key
n password / wifi password / PIN / access code / code
? how do I get [in|into the wifi]
? what [password|code|PIN] do I need
k password / wifi_password / pin

phone phone phone
= Tel / Tel. / Phone / TEL / Telephone / Ph / Call / Phone number / PHONE / T
n phone number / telephone number / phone / telephone / number to call
? [which|what] number [can I call|do I call|should I call|must I call]
? how can I [call|ring|phone] them
? [where|under which number] can I call
k phone / phone_number / telephone / contact_phone

mobile phone phone
= Mobile / Cell / Mobile no. / Cell phone / MOBILE
n mobile number / cell phone number / mobile
? what is the [mobile|cell phone] number
k mobile / mobile_number / cell_phone

fax phone fax
= Fax / FAX / Fax no. / Telefax
n fax number / fax
? [where|to which number] can I [fax it|send a fax]
k fax / fax_number

mail mail mail
= Email / E-mail / EMAIL / Mail / E-Mail / e-mail
n email address / e-mail / email / mail address
? [where|to which address] can I write [an email|them|a mail]
? what is their [email|mail|email address]
k email / email_address / contact_email

site site site
= Web / Website / WWW / Visit / Online / Web site
n website / web address / web page / homepage / internet address
? where can I find them [online|on the internet]
? what is their [website|web address]
k website / url / web_address
"""
