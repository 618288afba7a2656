from helpdesk.wiring import make
from prefect_definitions.application import Application

Application("config.yml", factory=make).run()
