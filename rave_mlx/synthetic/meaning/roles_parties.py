"""Roles of people, firms and places."""

PARTIES = """
issuer business issuer
= From / Seller / Vendor / Supplier / Company / Issued by / Merchant / Shop / Sold by / FROM / Store
n shop / company / seller / vendor / merchant / supplier / store / business / issuer / sender / shop name
n company name
? who is [it|this] from
? [which|what] [shop|company|store|business|firm] [is it|is this|is it from]
? [which|what] [shop|company|store|business|firm] [is this from|issued this|sent this|does it come from]
? [where|from where] [was this bought|did I buy this|was I|did I shop|did I spend the money|is this from]
? who [issued|sent|wrote|made|printed|billed] [this|it]
? who [wants the money|do I have to pay|do I owe|gets the money|sold this]
? [what is the name of the|what's the name of the|name of the] [shop|company|store|business|place]
? what [place|shop] is this
k vendor / vendor_name / merchant_name / company_name / seller / supplier_name / store_name / issuer / company

recipient person recipient
= Bill to / BILL TO / Customer / Client / To / Sold to / Invoice to / Billed to / Recipient / Attn / Ship to
n customer / recipient / client / buyer / customer name / addressee / name of the customer
? who is [it|this] [for|to|addressed to|billed to]
? who [has to pay|is the bill for|must pay|is billed|is the customer|ordered it|ordered this|was it sent to]
? to whom [is it|was it] [addressed|sent|billed]
? whose [bill|invoice|order] is [it|this]
k customer_name / recipient / bill_to / client / buyer_name / customer

holder person recipient
= Name / NAME / Card holder / Holder / Name of holder / Surname, given name / Full name / Member / Account holder
n name / holder / card holder / full name / name of the holder / account holder / owner
? who is [it|this|that|the holder|the owner]
? whose [card|pass|account|ID|badge] is [it|this]
? [what is the person's name|what is his name|what is her name|who does it belong to|name of the person]
k name / full_name / holder_name / account_holder / cardholder

passenger person recipient
= Passenger / Name of passenger / PASSENGER / Traveller / Name / Guest / Guest name / Visitor
n passenger / traveller / name of the passenger / guest / visitor
? who is [travelling|flying|the guest|the passenger|going]
? whose [ticket|booking|seat] is [it|this]
k passenger_name / passenger / guest_name

patient person recipient
= Patient / Patient name / PATIENT / Name of patient
n patient / patient's name / name of the patient
? who is [ill|the patient|being treated|it for]
k patient_name / patient

employee person recipient
= Employee / Employee name / Employee's name / EMPLOYEE / Name of employee / Worker
n employee / employee's name / worker / name of the employee
? who [works there|is employed|earned this|got paid|is the employee]
k employee_name / employee

insured person recipient
= Insured / Insured person / Policyholder / INSURED / Insured party
n insured person / policyholder / insured
? who is [insured|covered|the policyholder]
k insured_name / policyholder

*tenant person recipient
= Tenant / Tenant name / TENANT / Lessee
n tenant / name of the tenant / lessee
? who [rents it|lives there|is the tenant|is renting]
k tenant_name / tenant

signer person signer
= Signed / Signed by / Signature / Authorized by / Approved by / Signed for by
n signer / signatory / name below the signature
? who [signed|signed it|signed this|wrote the letter|wrote this letter|wrote it|approved it|authorized it]
? by whom is it signed
k signed_by / signatory / approved_by

contact person contact
= Contact / Contact person / CONTACT / Your contact / Account manager / Handled by / Questions to
n contact / contact person / person to ask
? who [can I ask|do I ask|should I contact][| when something is unclear| about this|]
? who [can I call|do I turn to|answers questions][| when something is unclear| about this|]
k contact_person / contact_name / contact

cashier person server
= Cashier / CASHIER / Served by / Server / SERVER / Clerk / Your cashier / Operator / You were served by / Assistant
n cashier / server / waiter / clerk / name of the cashier / salesperson
? who [served me|served us|was the cashier|was our waiter|rang it up|was at the till|sold it to me|looked after us]
? what is the [waiter|cashier|server] called
k cashier / cashier_name / server / served_by

doctor doctor doctor
= Doctor / Physician / Dr / Dentist / Doctor's name / PHYSICIAN
n doctor / physician / dentist / name of the doctor
? which doctor [is it|do I see|am I seeing|is treating]
? who [is the doctor|treats me|do I see|prescribed it]
k doctor_name / physician

driver person driver
= Driver / DRIVER / Delivered by / Courier / Driver name
n driver / courier / name of the driver
? who [drove|drove it|delivered it|brought it|was the driver]
k driver / driver_name / courier

receiver person receiver
= Received by / Accepted by / RECEIVED BY / Signed for by / Taken by
n receiver / person who received it
? who [received it|took it|accepted it|signed for it|received the goods]
k received_by

emergency person emergency
= Emergency contact / Person to notify / In case of emergency / Next of kin / Notify in emergency
n emergency contact / person to notify / next of kin
? who [should be notified]
? who [do I call in an emergency|is to be informed if something happens]
k emergency_contact / next_of_kin

chair person chair
= Chair / Chaired by / Host / Speaker / Led by / Teacher / Instructor / Trainer
n chair / host / speaker / teacher / trainer / instructor
? who [led it|is speaking|chaired it|is the teacher|holds the course|is in charge|leads it]
k speaker / instructor / chair

employer business employer
= Employer / Employer's name / EMPLOYER / Employed by / Company / Employer name
n employer / employer's name / name of the employer
? [who|which company] is the employer
? where does [he|she|the employee] work
? who [employs her|employs him|pays the wages|does he work for|does she work for]
k employer_name / employer

carrier business carrier
= Carrier / Shipped via / Operated by / CARRIER / Shipper / Sent with / Airline
n carrier / shipper / airline / transport company / parcel service
? who [transports it|ships it|operates it|brings the parcel|flies it]
? which [carrier|airline|parcel service] is it
k carrier / airline / shipped_via

*landlord business landlord
= Landlord / Lessor / Property manager / LANDLORD / Managed by
n landlord / property manager / lessor
? who [owns the flat|manages the house|rents it out|is the landlord]
k landlord / property_manager

address place_line address
= Address / ADDRESS / Office / Shop address / Our address / Located at / Registered office
n address / street address / address of the shop / company address / location
? where [is it|is the shop|are they|is the company|is the office|do they have their shop]
? what is [their|the shop's|the company's] address
? [which|what] street is [it|the shop] in
k address / vendor_address / company_address / merchant_address / store_address

home place_line home
= Home address / Street address / Residence / Address / Delivery address / Ship to / Mailing address
n home address / delivery address / customer's address / mailing address / residence
? where [does he live|does she live|does the customer live|is it delivered|is it sent to|should it be sent]
k customer_address / delivery_address / shipping_address / home_address

city city city
= City / Town / CITY / Place / City/Town
n city / town
? [which|what] [city|town] is it [in|]
k city / town

postcode zip postcode
= ZIP / Zip code / Postcode / Postal code / ZIP CODE / ZIP Code
n zip code / postcode / postal code / zip
? what is the [zip|postcode|postal code]
k zip / zip_code / postal_code / postcode

country country country
= Country / COUNTRY / Country of origin / Nationality / NATIONALITY / Made in
n country / nationality / country of origin
? [which|what] country [is it|does it come from|is he from|is she from]
k country / nationality

state state state
= State / STATE / Province / State/Province
n state / province
? [which|what] state is it [in|]
k state / province

origin city origin
= From / FROM / Origin / Departing from / Start / From station
n origin / place of departure / starting point / departure city
? where [do I leave from|does it leave from|does it start|does the trip start|do I get on|do we set off]
? from where [do I travel|does it go|do I fly]
k origin / departure_city / from

destination city destination
= To / TO / Destination / Arriving at / Going to / DESTINATION / To station
n destination / place of arrival / arrival city
? where [am I going|does it go|do I fly to|am I flying to|does the train go|does it go to|is the trip to|do I get off]
k destination / arrival_city / to

venue venue venue
= Place / Venue / Where / Location / VENUE / Held at / At
n place / venue / location
? where [is it|does it take place|is it held|was it held]
? where [is the event|is the show|do I have to go|will it be|is the meeting]
k venue / location / place / event_location

artist artist artist
= Artist / Performing / Act / On stage / Featuring / Live / Band
n artist / band / performer / act
? who [is playing|plays|is on stage|performs|is singing|can I see there]
? [which|what] band is [it|playing]
k artist / performer

event event event_name
= Event / EVENT / Title / What / Occasion / Course
n event / name of the event / occasion / event name
? [what is it called|what is the event called|what event is it|what is on|what takes place|what is it about]
? what kind of event is [it|this]
k event_name / event / event_title

bank bank issuer
= Bank / BANK / Bank name / Your bank / Financial institution
n bank / name of the bank / bank name
? which bank [is it|is this|is the account with|keeps the account|is it from]
k bank_name / bank
"""
