from rbees.workerd.command import command

command()
