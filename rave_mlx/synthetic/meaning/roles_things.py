"""Roles of counts, measures, states and names of things."""

THINGS = """
table_no small table_no
= Table / TABLE / Table no. / Tbl / Table #
n table / table number
? [which|what] table [was ours|was it|were we at|had we|is it]
? where did we sit
k table_number / table

guests small guests
= Guests / Covers / Persons / GUESTS / Pax / No. of guests / Adults
n number of guests / guests / number of people / number of persons
? how many [people|guests|persons] [were there|were we|are there|ate|are coming]
k guests / number_of_guests / covers

item_count small item_count
= Items / ITEMS / No. of items / Item count / ITEM COUNT / Number of items / Articles
n number of items / item count / number of articles
? how many [items|things|articles] [did I buy|are there|were bought|are on it|was it]
k item_count / number_of_items

parcels small parcels
= Parcels / Packages / Pieces / Boxes / No. of parcels / Pallets
n number of parcels / number of packages / number of boxes
? how many [parcels|packages|boxes] [are there|came|were delivered|is it]
k packages / parcel_count

pages small pages
= Pages / No. of pages / PAGES / Sheets
n number of pages / page count
? how many pages [does it have|are there|is it]
k page_count / pages

vat_rate rate vat_rate
= VAT rate / Tax rate / Rate / VAT % / TAX RATE
n tax rate / VAT rate / rate of tax
? how many percent [tax|VAT] is it
? what [percentage|rate] is the [tax|VAT]
k tax_rate / vat_rate

interest rate interest
= Interest / Interest rate / APR / Rate p.a. / INTEREST RATE
n interest rate / rate of interest / APR
? how high is the interest
? how much interest [is it|do I pay|do they charge]
k interest_rate / apr

weight weight weight
= Weight / WEIGHT / Gross weight / Wt / Net weight / Total weight
n weight / total weight
? how [heavy is it|much does it weigh|heavy is the parcel|heavy is the delivery]
k weight / gross_weight

height height height
= Height / HEIGHT / Ht
n height / size
? how tall is [he|she|the holder]
k height

reading_old kwh reading_old
= Previous reading / Last reading / Old reading / Start reading / PREVIOUS READING
n previous reading / old reading / old meter reading / last reading
? what [was the meter at before|did the meter show before|was the old reading]
k previous_reading

reading_new kwh reading_new
= Current reading / New reading / Present reading / Reading now / CURRENT READING
n current reading / new reading / new meter reading / present reading
? what [is the meter at now|does the meter show now|is the new reading]
k current_reading / meter_reading

usage kwh usage
= Used / Usage / Consumption / Total used / USAGE / Energy used
n usage / consumption / amount used
? how much [did I use|was used|power did I use|energy was used|did we consume]
k usage / consumption

data_used data_size data_used
= Data used / Storage used / Used space / Data usage / Memory used / Storage
n data used / storage used / used space / data usage
? how much [data was used|data did I use|storage is used|space is used]
k data_used / storage_used

battery battery battery
= Battery / Charge / Battery level / BATTERY
n battery level / charge / battery
? how [full|charged] is the battery
k battery_level

network network network
= Network / Wi-Fi network / SSID / Connected to / Network name
n network / network name / wifi network / name of the network
? [which|what] network [am I on|is it|is joined|is connected]
k network / ssid

ip_address ip ip_address
= IP address / IPv4 / IP / Address
n IP address / IP
? what's my IP
k ip_address

resolution resolution resolution
= Resolution / Screen resolution / Display resolution / Size
n resolution / screen resolution
? how many pixels [does the screen have|are set]
k resolution

version version version
= Version / Software version / Build / Firmware / App version
n version / software version / build number
? [which|what] version [is it|is installed|do I have|is running]
k version / software_version

theme theme theme
= Theme / Appearance / Color scheme / Mode
n theme / appearance / color scheme
? [which|what] theme [is set|is it|is chosen]
k theme

language language language
= Language / LANGUAGE / Display language / Input language
n language / display language
? [which|what] language [is set|is it in|is chosen|is selected]
k language

*time_zone zone time_zone
= Time zone / Timezone / Zone
n time zone
? [which|what] time zone is [set|it]
k time_zone

status status status
= Status / STATUS / State / Result / Order status
n status / state / result
? what [state is it in|is the state of it|came out]
? what is the current [state|status]
k status / state / result

job job job
= Position / Job title / Occupation / Role / Profession / POSITION / Function
n job / position / profession / occupation / job title
? what [does she do|does he do|is his job|is her job|do they do][| as a job| for work|]
k job_title / occupation / position

department department department
= Department / Dept / DEPARTMENT / Section / Division / Team
n department / section / team
? [which|what] department [is it|does he work in|does she work in]
k department

access zone_name access
= Access / Access level / Zone / Clearance / Area
n access / access level / zone
? where may [he|she] go
? [which|what] zone may [she|the holder] enter
k access_level / zone

blood blood blood
= Blood group / Blood type / BLOOD
n blood group / blood type
? which blood group does [he|she] have
k blood_group

sex sex sex
= Sex / SEX / Gender / M/F
n sex / gender
? is it a man or a woman
k sex / gender

seat seat seat
= Seat / SEAT / Seat no. / Place
n seat / seat number / place
? [which|what] seat [do I have|is it|is mine|did I get]
? where do I sit
k seat / seat_number

row seat_row seat_row
= Row / ROW
n row
? [which|what] row [is it|am I in|do I sit in]
k row

gate gate gate
= Gate / GATE / Entrance / Door
n gate / entrance / gate number
? [which|what] gate [is it|do I go to|do I have to go to]
? where do I board
k gate

platform small platform
= Platform / Track / PLATFORM / Bay
n platform / track
? [from which|what|which] platform [does it leave|is it|do I need]
k platform / track

coach small coach
= Coach / Carriage / COACH / Car / Wagon
n coach / carriage / car number
? [which|what] [coach|carriage] [is it|am I in|do I sit in]
k coach / carriage

travel_class travel_class travel_class
= Class / CLASS / Cabin
n class / cabin class
? [which|what] class [is it|do I travel|am I in]
k travel_class / class

room_no room room_no
= Room / ROOM / Room no. / Hall / Room number
n room / room number / hall
? [which|what] room [is it|is it in|do I go to|do I have|should I look for]
k room / room_number

floor floor floor
= Floor / FLOOR / Level / Storey
n floor / level / storey
? [which|what] floor [is it on|do I go to|is that]
k floor

subject subject subject
= Subject / Re / Regarding / SUBJECT / Concerning / RE
n subject / subject line / topic / subject of the letter
? what is [it|the letter|this letter|the mail|this message] about
? what does it concern
k subject / topic

terms terms terms
= Terms / Payment terms / TERMS / Conditions
n payment terms / terms / conditions of payment
? [what|which] are the [terms|payment terms|conditions]
? how many days do I have to pay
k payment_terms / terms

medicine medicine medicine
= Medication / Medicine / Drug / Rx / Preparation
n medicine / medication / drug
? [what|which] [medicine|drug] [is it|was prescribed|do I take]
k medication / drug_name

dose dose dose
= Dosage / Dose / Directions / Take / DOSAGE
n dosage / dose / directions
? how [often|much] do I take
? how do I take it
k dosage / dose

product product product
= Product / Article / Item / Model / Type / PRODUCT
n product / article / model
? [what|which] product [is it|is this about]
k product / product_name / model

*warranty duration warranty
= Warranty / Guarantee / WARRANTY / Guaranteed for
n warranty / guarantee / warranty period
? how long is the [guarantee|warranty]
? for how long is it guaranteed
k warranty / warranty_period

cover_type cover cover_type
= Type of cover / Cover / Plan / Tariff / Contract type / Plan name / TARIFF
n type of cover / plan / tariff / kind of contract
? [which|what] [plan|tariff|cover] [do I have|is it]
? what is [insured|covered]
k plan / cover_type / tariff

*color color color
= Color / Colour / COLOR / Finish
n color / colour
? [which|what] colo[r|ur] [is it|does it have]
k color / colour

*size_label size_label size_label
= Size / SIZE / Dimensions
n size
? [which|what] size [is it|did I buy|is that]
k size

currency currency currency
= Currency / CURRENCY / Cur.
n currency
? [which|what] currency [is it in|is used|do they use]
k currency

heading heading heading
= Title / Heading
n title / heading / title of the page / heading of the page / headline / title of the document
? what is [it|this page|the page|the document] called
? what [does it say at the top|is written at the top|stands at the top]
? [which|what] [heading|title] does it have
k title / heading / document_title
"""
