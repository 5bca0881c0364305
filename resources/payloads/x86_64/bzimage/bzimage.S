/*
 * A bzImage of boot protocol 2.06 (Linux, Documentation/arch/x86/boot.rst), for firmware that enters kernels in real mode: prints the
 * command line, a newline and the whole initial RAM disk to COM1, and gives 0x10 to the debug exit.
 */
#define COM1 0x3f8
#define DEBUG_EXIT 0xf4
/* The selectors of the 32-bit boot protocol. */
#define CODE 0x10
#define DATA 0x18

	.section .setup, "ax"
	.code16
setup:
	.org	0x1f1
	.byte	1			/* setup_sects */
	.word	0
	.long	paragraphs		/* syssize */
	.org	0x1fe
	.word	0xaa55
	/* The loader enters here, with DS 0x20 less than CS. */
	jmp	after_header
	.ascii	"HdrS"
	.word	0x0206
	.org	0x211
	.byte	1			/* loadflags: LOADED_HIGH */
	.org	0x218
ramdisk_image:
	.long	0
ramdisk_size:
	.long	0
	.org	0x228
cmd_line_ptr:
	.long	0
	.long	0x7fffffff		/* initrd_addr_max */
	.org	0x238
	.long	2047			/* cmdline_size */
after_header:
	cli
	xorl	%ebx, %ebx
	movw	%ds, %bx
	shll	$4, %ebx
	leal	gdt(%ebx), %eax
	movl	%eax, gdtr + 2
	lgdtl	gdtr
	movl	ramdisk_image, %edi
	movl	ramdisk_size, %ebp
	movl	cmd_line_ptr, %esi
	movl	%cr0, %eax
	orb	$1, %al
	movl	%eax, %cr0
	ljmpl	$CODE, $start

	.balign	8
gdt:
	.quad	0, 0, 0x00cf9b000000ffff, 0x00cf93000000ffff
gdtr:
	.word	gdtr - gdt - 1
	.long	0
	.org	0x400

	.text
	.code32
	.globl	start
start:
	movl	$DATA, %eax
	movl	%eax, %ds
	movl	%eax, %es
	movl	%eax, %ss
	cld
	movl	$COM1, %edx
print:
	lodsb
	testb	%al, %al
	jz	printed
	outb	%al, %dx
	jmp	print
printed:
	movb	$'\n', %al
	outb	%al, %dx
	movl	%edi, %esi
	movl	%ebp, %ecx
	rep outsb
	movb	$0x10, %al
	outb	%al, $DEBUG_EXIT
	cli
	hlt
