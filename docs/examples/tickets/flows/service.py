from prefect_definitions.application import Application

Application("runners.yml").run()
